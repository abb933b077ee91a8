"""The fixture's checkpoint, as transformers reads it, rebuilt from the weights in its ONNX export.

    python benches/peers/checkpoint.py OUT

The export's linear weights are the checkpoint's, transposed, and its node names say which is which. What is
written must give the export's own logits, or nothing is kept.
"""

import re
import shutil
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import AutoConfig, Qwen2ForCausalLM

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "wordmath"
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
              "generation_config.json")
TOLERANCE = 1e-4
LINEAR = re.compile(r"/(model/layers\.\d+/(?:self_attn|mlp)/[a-z]+_proj)/MatMul")


def state_of(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors under the checkpoint's names."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    state = {name: numpy_helper.to_array(t) for name, t in stored.items() if name.startswith("model.")}
    for node in graph.node:
        named = LINEAR.fullmatch(node.name)
        if named and node.op_type == "MatMul":
            weight = numpy_helper.to_array(stored[node.input[1]])
            state[named[1].replace("/", ".") + ".weight"] = weight.T
    return {name: torch.from_numpy(value.copy()) for name, value in state.items()}


def largest_difference(model: Qwen2ForCausalLM, export: Path) -> float:
    """Between the logits of the two, over random tokens."""
    session = onnxruntime.InferenceSession(str(export), providers=["CPUExecutionProvider"])
    ids = numpy.random.default_rng(1).integers(0, model.config.vocab_size, (3, 40))
    feeds = {"input_ids": ids, "attention_mask": numpy.ones_like(ids),
             "position_ids": numpy.arange(40)[None].repeat(3, 0)}
    size = model.config.hidden_size // model.config.num_attention_heads
    empty = numpy.zeros((3, model.config.num_key_value_heads, 0, size), numpy.float32)
    feeds |= {i.name: empty for i in session.get_inputs() if i.name.startswith("past_key_values.")}
    theirs = session.run(["logits"], feeds)[0]
    with torch.no_grad():
        ours = model(torch.from_numpy(ids)).logits.numpy()
    return float(numpy.abs(ours - theirs).max())


def rebuild(out: Path, export: Path = FIXTURE) -> float:
    """Writes the checkpoint; gives the largest difference of a logit."""
    model = Qwen2ForCausalLM(AutoConfig.from_pretrained(export)).eval()
    missing, unexpected = model.load_state_dict(state_of(onnx.load(export / "model.onnx").graph), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise SystemExit(f"not the fixture's export: {missing} are missing, {unexpected} are unknown")
    model.tie_weights()
    difference = largest_difference(model, export / "model.onnx")
    if not difference <= TOLERANCE:
        raise SystemExit(f"logits differ by {difference:.1e}: the rebuilt checkpoint is not the export's")
    model.save_pretrained(out)
    for name in SIDE_FILES:
        shutil.copyfile(export / name, out / name)
    return difference


if __name__ == "__main__":
    print(f"largest difference of a logit: {rebuild(Path(sys.argv[1])):.1e}")
