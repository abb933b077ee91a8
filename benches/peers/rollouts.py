"""Rollouts by tla, onnxruntime-genai and transformers, in turn on one machine; prints a Markdown table.

    python benches/peers/rollouts.py --program target/release/examples/rollout_speed --run target/peers/rollouts \\
        --genai-python target/peers/genai/bin/python

One process of each stays loaded and takes its turn; a cell is the median of the rounds after the first. The same
prompts (all of one length), rows and tokens everywhere, and no token ends an answer. genai runs the export of its own
builder, which is made here from the same checkpoint, and takes at most 32 rows at once: more are answered in parts.
tla runs optimum's export and genai's. `make peers-rollouts` sets it up.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import checkpoint
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "fixtures" / "data" / "train.jsonl"

# Threads of the one whose turn it was may spin a while before they sleep.
PAUSE = 0.3


class Worker:
    """A loaded model that answers one request at a time."""

    def __init__(self, *line: object) -> None:
        self.child = subprocess.Popen(list(map(str, line)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, wanted: dict) -> dict:
        self.child.stdin.write(json.dumps(wanted) + "\n")
        self.child.stdin.flush()
        told = self.child.stdout.readline()
        if not told:
            raise SystemExit(f"{self.child.args} ended")
        return json.loads(told)

    def close(self) -> None:
        self.child.stdin.close()
        self.child.wait()


def alike(data: Path, tokenizer_of: Path, out: Path) -> Path:
    """The problems whose prompts have the commonest length: nobody pads, and padding cannot make a difference."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    by_length: dict[int, list[str]] = {}
    for line in data.read_text().splitlines():
        by_length.setdefault(len(tokenizer.encode(json.loads(line)["question"])), []).append(line)
    chosen = max(by_length.values(), key=len)
    out.write_text("\n".join(chosen) + "\n")
    return out


def built_by_genai(python: Path, model: Path, out: Path) -> Path:
    """genai's own fp32 export of the checkpoint, once."""
    if not (out / "genai_config.json").exists():
        subprocess.run([python, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", out, "-p", "fp32",
                        "-e", "cpu", "-c", out / "cache"], check=True, stdout=sys.stderr)
    # transformers 5 writes a tokenizer that splits text as Qwen's does, whatever the model's own says.
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copyfile(model / name, out / name)
    return out


def begins_alike(one: list[int], other: list[int], ends: int) -> bool:
    """Up to where `other` would have ended: genai may not choose the token that ends, the rest may and go on."""
    length = other.index(ends) if ends in other else len(other)
    return one[:length] == other[:length]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="the built example rollout_speed")
    parser.add_argument("--genai-python", type=Path, required=True, help="an interpreter that has onnxruntime-genai")
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--model", type=Path, default=checkpoint.FIXTURE, help="the ONNX export that tla runs")
    parser.add_argument("--checkpoint", type=Path, help="the same model for transformers [default: rebuilt]")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, nargs="*", default=[32, 192])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packed", action="store_true", help="tla with --pack-weights, as the others hold theirs")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    if options.checkpoint is None:
        options.checkpoint = options.run / "checkpoint"
        checkpoint.rebuild(options.checkpoint, options.model)
    theirs = built_by_genai(options.genai_python, options.checkpoint, options.run / "genai")
    data = alike(options.data, options.checkpoint, options.run / "problems.jsonl")
    worker = HERE / "generate_worker.py"
    packed = ["packed"] if options.packed else []
    workers = {
        "tla, optimum's export": Worker(options.program, options.model, data, options.threads, *packed),
        "tla, genai's export": Worker(options.program, theirs, data, options.threads, *packed),
        "onnxruntime-genai": Worker(options.genai_python, worker, "genai", theirs, data, options.threads),
        "transformers": Worker(sys.executable, worker, "transformers", options.checkpoint, data,
                               options.threads),
    }
    samples, tokens = options.samples, options.tokens
    settings = {}
    for rows in options.rows:
        for way in ["greedy", "sampled"]:
            shape = {"prompts": rows, "samples": 1, "tokens": tokens, "greedy": way == "greedy"}
            settings[f"{way}, {rows} prompts"] = shape
        settings[f"sampled, {rows // samples} prompts × {samples}"] = {
            "prompts": rows // samples, "samples": samples, "tokens": tokens, "greedy": False}
    ends = AutoTokenizer.from_pretrained(options.checkpoint).eos_token_id
    print(f"Answers of {tokens} tokens each, {options.threads} threads, median of {options.rounds - 1}\n")
    print("| | " + " | ".join(workers) + " |")
    print("|---" * (len(workers) + 1) + "|")
    for name, wanted in settings.items():
        seconds: dict[str, list[float]] = {who: [] for who in workers}
        answers, rows = {}, wanted["prompts"] * wanted["samples"]
        for turn in range(options.rounds):
            for who in sorted(workers, reverse=turn % 2 == 1):
                time.sleep(PAUSE)
                told = workers[who](wanted)
                if told["tokens"] != rows * tokens:
                    raise SystemExit(f"{who} made {told['tokens']} tokens, not {rows * tokens}")
                seconds[who] += [told["seconds"]][: turn]
                answers[who] = told["answers"]
        if wanted["greedy"]:
            for who, made in answers.items():
                same = sum(begins_alike(a, b, ends) for a, b in zip(made, answers["transformers"], strict=True))
                print(f"{who}: {same} of {rows} greedy answers are those of transformers", file=sys.stderr)
        cells = [statistics.median(times) for times in seconds.values()]
        print(f"| {name} | " + " | ".join(f"{c:.3f} s, {rows * tokens / c:,.0f} tokens/s" for c in cells) + " |",
              flush=True)
    for told in workers.values():
        told.close()


if __name__ == "__main__":
    main()
