"""What becomes of an adapter on a base of 8 or 4 bits: trained there, then grafted, merged onto the grid the
base has, and merged onto a grid fitted anew. Prints a Markdown table.

    python benches/quantised.py --tla target/release/tla --run target/quantised [--run-seed 1] [--limit 800]

Needs onnx beside onnxruntime (requirements.txt) to make the quantised models; `make quantised` sets up both.
"""

import argparse
import json
import logging
import shutil
import subprocess
from pathlib import Path

import onnx
from onnxruntime.quantization import matmul_nbits_quantizer as nbits

ROOT = Path(__file__).resolve().parent.parent
logging.disable(logging.INFO)
FIXTURE = ROOT / "fixtures" / "wordmath"
DATA = ROOT / "fixtures" / "data"
BLOCK = 32


def quantised(bits: int, folder: Path) -> None:
    """The fixture with its linear layers in blocks of 32, by ONNX Runtime's own quantiser."""
    shutil.copytree(FIXTURE, folder)
    model = onnx.load(folder / "model.onnx")
    config = nbits.DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    head = [node.name for node in model.graph.node if "lm_head" in node.name]
    made = nbits.MatMulNBitsQuantizer(model, nodes_to_exclude=head, algo_config=config)
    made.process()
    onnx.save(made.model.model, folder / "model.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tla", required=True)
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--run-seed", default="1")
    parser.add_argument("--limit", default="800")
    parser.add_argument("--bases", nargs="*", default=["fp32", "int8", "int4"])
    options = parser.parse_args()
    shutil.rmtree(options.run, ignore_errors=True)
    options.run.mkdir(parents=True)

    def tla(*arguments) -> dict:
        line = [options.tla, *map(str, arguments), "--json"]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode == 2:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def accuracy(model: Path, *more) -> str:
        found = tla("eval", "--model", model, "--data", DATA / "heldout.jsonl", "--limit", options.limit, *more)
        return f"{100 * found['accuracy']:.1f} %"

    print("| base | accuracy of the base | live | grafted | merged, survival | refitted, survival |")
    print("|---|---|---|---|---|---|")
    known = {"fp32": None, "int8": 8, "int4": 4}
    for name, bits in ((name, known[name]) for name in options.bases):
        base = FIXTURE
        if bits:
            base = options.run / name
            quantised(bits, base)
        adapter = options.run / f"{name}.tla"
        tla("train", "--model", base, "--data", DATA / "train.jsonl", "--out", adapter,
            "--run-seed", options.run_seed, "--run", options.run / f"{name}-run")
        cells = [accuracy(base), accuracy(base, "--adapter", adapter)]
        tla("bake", base, adapter, "-o", options.run / f"{name}-graft", "--graft")
        cells.append(accuracy(options.run / f"{name}-graft"))
        for kind, extra in {"merge": [], "fit": ["--requantise"]}.items():
            if kind == "fit" and not bits:
                cells.append("–")
                continue
            folder = options.run / f"{name}-{kind}"
            baked = tla("bake", base, adapter, "-o", folder, "--force", *extra)
            cells.append(f"{accuracy(folder)}, {100 * baked['survival']:.1f} %")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
