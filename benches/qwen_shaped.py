"""A model of the width of Qwen2.5-0.5B with random weights, as optimum exports it: only its shape matters.

    python benches/qwen_shaped.py --layers 8 --out DIR

For benches/graft_cost.py, where the fixture's operators are so small that calling them is all their
time. Needs what fixtures/make/requirements.txt lists.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from optimum.exporters.onnx import main_export
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "wordmath"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--vocabulary", type=int, default=32_000)
parser.add_argument("--out", type=Path, required=True)
given = parser.parse_args()

torch.manual_seed(1)
config = Qwen2Config(
    vocab_size=given.vocabulary,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=given.layers,
    num_attention_heads=14,
    num_key_value_heads=2,
    rope_theta=1e6,
    tie_word_embeddings=True,
    sliding_window=None,
)
model = AutoModelForCausalLM.from_config(config)
with tempfile.TemporaryDirectory() as source:
    model.save_pretrained(source)
    PreTrainedTokenizerFast.from_pretrained(FIXTURE).save_pretrained(source)
    main_export(source, given.out, task="text-generation-with-past", dtype="fp32", device="cpu")
