"""A model of Qwen2.5-0.5B's shape with random weights, as a checkpoint and exported by optimum-onnx.

usage: make_half_billion.py OUT [--tokenizer FOLDER] [--layers 24]

Writes OUT/model.onnx (fp32, about 2 GB of weights beside it), tokenizer and configuration in the
same folder, and OUT/checkpoint for other libraries. The tokenizer is a small one with its
vocabulary filled up to 151,936 entries, so that any token that is sampled has a text. Needs torch
2.9.1, transformers 4.57.6 and optimum-onnx 0.1.0.
"""

import argparse
import json
import pathlib
import shutil

import torch
from optimum.exporters.onnx import main_export
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 151_936
SEED = 20260205
HERE = pathlib.Path(__file__).resolve().parent


def fill(path: pathlib.Path) -> None:
    """Adds entries to a BPE vocabulary until it has one for every token of the model."""
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    taken = set(vocabulary.values()) | {a["id"] for a in tokenizer["added_tokens"]}
    for token in range(VOCABULARY):
        if token not in taken:
            vocabulary[f"<{token}>"] = token
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, default=HERE.parents[1] / "fixtures" / "wordmath")
    parser.add_argument("--layers", type=int, default=24)
    args = parser.parse_args()
    torch.manual_seed(SEED)
    generation = json.loads((args.tokenizer / "generation_config.json").read_text())
    ends = {key: generation.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=args.layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        **ends,
    )
    checkpoint = args.out / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    Qwen2ForCausalLM(config).save_pretrained(checkpoint)
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    for name in names:
        shutil.copy(args.tokenizer / name, checkpoint / name)
    fill(checkpoint / "tokenizer.json")
    main_export(
        str(checkpoint), str(args.out), task="text-generation-with-past", opset=18, dtype="fp32", do_validation=False
    )


if __name__ == "__main__":
    main()
