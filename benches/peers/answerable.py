"""Makes a model with random weights answer something that can be right, so that training steps can be timed.

    python benches/peers/answerable.py MODEL OUT

MODEL is what make_half_billion.py wrote. OUT is a copy with another tokenizer, and problems: every filler
token reads `#### 1` or `#### 2`, one in twenty of them ends the answer, and every problem's answer is 1. Answers have
some twenty tokens then, and about half of those that end are right by the strict reading.
"""

import argparse
import json
import shutil
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
# Of so many tokens in a row the first two end an answer: one of each kind.
PERIOD = 40
SPACE = "\u0120"


def voiced(source: Path, out: Path) -> None:
    """Everything of a model's folder, with another vocabulary and other stop tokens."""
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    fillers = {token: number for token, number in tokenizer["model"]["vocab"].items() if token == f"<{number}>"}
    for token, number in fillers.items():
        del tokenizer["model"]["vocab"][token]
        tokenizer["model"]["vocab"][f"####{SPACE}{1 + number % 2}{SPACE}{number}"] = number
    generation = json.loads((source / "generation_config.json").read_text())
    ends = [number for number in fillers.values() if number % PERIOD < 2]
    generation["eos_token_id"] = [2, *ends]
    for name, value in {"tokenizer.json": tokenizer, "generation_config.json": generation}.items():
        (out / name).unlink()
        (out / name).write_text(json.dumps(value, ensure_ascii=False))


def constants_inside(out: Path) -> None:
    """Takes the constants of nodes, which optimum puts beside the weights past 2 GB, into the graph."""
    model = onnx.load(out / "model.onnx", load_external_data=False)
    for attribute in (a for node in model.graph.node for a in node.attribute if a.HasField("t")):
        if uses_external_data(attribute.t):
            load_external_data_for_tensor(attribute.t, str(out))
            attribute.t.data_location = onnx.TensorProto.DEFAULT
            del attribute.t.external_data[:]
    (out / "model.onnx").unlink()
    (out / "model.onnx").write_bytes(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    voiced(options.model, options.out)
    constants_inside(options.out)
    voiced(options.model / "checkpoint", options.out / "checkpoint")
    rows = [json.loads(line) for line in (FIXTURES / "data" / "train.jsonl").read_text().splitlines()]
    lines = [json.dumps({"question": row["question"], "answer": "#### 1"}) + "\n" for row in rows]
    (options.out / "train.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
