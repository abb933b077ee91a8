"""Rollouts by transformers or by onnxruntime-genai, timed for rollouts.py, which speaks to it as to
examples/rollout_speed.rs: `generate_worker.py transformers|genai MODEL DATA THREADS`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
from transformers import PreTrainedTokenizerFast

Rows = list[list[int]]
# The most rows that onnxruntime-genai 0.18 takes at once.
MOST_ROWS = 32


def by_transformers(folder: str, threads: int) -> Callable[[Rows, dict], Rows]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pad = model.config.pad_token_id
    model.generation_config.eos_token_id = None

    @torch.no_grad()
    def answer(prompts: Rows, wanted: dict) -> Rows:
        width = max(map(len, prompts))
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        sampling = {"do_sample": False} if wanted["greedy"] else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=wanted["tokens"],
                              num_return_sequences=wanted["samples"], pad_token_id=pad, **sampling)
        return made[:, width:].tolist()

    return answer


def by_genai(folder: str, threads: int) -> Callable[[Rows, dict], Rows]:
    import onnxruntime_genai as og

    config = og.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    pad = json.loads(Path(folder, "genai_config.json").read_text())["model"]["pad_token_id"]

    def together(rows: Rows, wanted: dict) -> Rows:
        width = max(map(len, rows))
        tokens = numpy.full((len(rows), width), pad, numpy.int32)
        for index, row in enumerate(rows):
            tokens[index, width - len(row):] = row
        options = og.GeneratorParams(model)
        sampling = {"do_sample": False} if wanted["greedy"] else {"do_sample": True, "temperature": 1.0, "top_k": 0}
        length = width + wanted["tokens"]
        options.set_search_options(batch_size=len(rows), min_length=length, max_length=length, **sampling)
        generator = og.Generator(model, options)
        generator.append_tokens(tokens)
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(index).tolist()[width:] for index in range(len(rows))]

    def answer(prompts: Rows, wanted: dict) -> Rows:
        rows = [row for row in prompts for _ in range(wanted["samples"])]
        parts = [rows[start : start + MOST_ROWS] for start in range(0, len(rows), MOST_ROWS)]
        return [made for part in parts for made in together(part, wanted)]

    return answer


def asked() -> Iterator[dict]:
    for line in sys.stdin:
        yield json.loads(line)


def main() -> None:
    kind, folder, data, threads = sys.argv[1:]
    answer = {"transformers": by_transformers, "genai": by_genai}[kind](folder, int(threads))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    questions = [json.loads(line)["question"] for line in Path(data).read_text().splitlines()]
    for wanted in asked():
        texts = [tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False,
                                               add_generation_prompt=True) for q in questions[: wanted["prompts"]]]
        prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        started = time.perf_counter()
        made = answer(prompts, wanted)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "tokens": sum(map(len, made)), "answers": made}), flush=True)


if __name__ == "__main__":
    main()
