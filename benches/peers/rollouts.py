"""Rollouts by tla, onnxruntime-genai and transformers, in turn on one machine; prints a Markdown table.

    python benches/peers/rollouts.py --program target/release/examples/rollout_speed --run target/peers/rollouts \\
        --genai-python target/peers/genai/bin/python

One process of each stays loaded and takes its turn; a cell is the median of the rounds after the first. The same
prompts, rows and tokens everywhere, and no token ends an answer. genai runs the export of its own builder, which is
made here from the same checkpoint; tla runs optimum's export and genai's. `make peers-rollouts` sets it up.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import checkpoint

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "fixtures" / "data" / "train.jsonl"


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


def built_by_genai(python: Path, model: Path, out: Path) -> Path:
    """genai's own fp32 export of the checkpoint, once."""
    if not (out / "genai_config.json").exists():
        subprocess.run([python, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", out, "-p", "fp32",
                        "-e", "cpu", "-c", out / "cache"], check=True, stdout=sys.stderr)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, help="the built example rollout_speed")
    parser.add_argument("--genai-python", type=Path, required=True, help="an interpreter that has onnxruntime-genai")
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--model", type=Path, default=checkpoint.FIXTURE, help="the ONNX export that tla runs")
    parser.add_argument("--checkpoint", type=Path, help="the same model for transformers [default: rebuilt]")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    if options.checkpoint is None:
        options.checkpoint = options.run / "checkpoint"
        checkpoint.rebuild(options.checkpoint, options.model)
    theirs = built_by_genai(options.genai_python, options.checkpoint, options.run / "genai")
    worker = HERE / "generate_worker.py"
    workers = {
        "tla, optimum's export": Worker(options.program, options.model, options.data, options.threads),
        "tla, genai's export": Worker(options.program, theirs, options.data, options.threads),
        "onnxruntime-genai": Worker(options.genai_python, worker, "genai", theirs, options.data, options.threads),
        "transformers": Worker(sys.executable, worker, "transformers", options.checkpoint, options.data,
                               options.threads),
    }
    rows, samples, tokens = options.rows, options.samples, options.tokens
    settings = {
        f"greedy, {rows} prompts": {"prompts": rows, "samples": 1, "tokens": tokens, "greedy": True},
        f"sampled, {rows} prompts": {"prompts": rows, "samples": 1, "tokens": tokens, "greedy": False},
        f"sampled, {rows // samples} prompts × {samples}":
            {"prompts": rows // samples, "samples": samples, "tokens": tokens, "greedy": False},
    }
    print(f"{rows} answers of {tokens} tokens each, {options.threads} threads, median of {options.rounds - 1}\n")
    print("| | " + " | ".join(workers) + " |")
    print("|---" * (len(workers) + 1) + "|")
    for name, wanted in settings.items():
        seconds: dict[str, list[float]] = {who: [] for who in workers}
        first = {}
        for turn in range(options.rounds):
            for who in sorted(workers, reverse=turn % 2 == 1):
                told = workers[who](wanted)
                if told["tokens"] != rows * tokens:
                    raise SystemExit(f"{who} made {told['tokens']} tokens, not {rows * tokens}")
                seconds[who] += [told["seconds"]][: turn]
                first[who] = told["first"]
        if wanted["greedy"]:
            ends = min(map(len, first.values()))
            alike = [row[:ends] == first["transformers"][:ends] for row in first.values()]
            print(f"the first greedy answer is the same for {sum(alike)} of {len(alike)}", file=sys.stderr)
        cells = [statistics.median(times) for times in seconds.values()]
        print(f"| {name} | " + " | ".join(f"{c:.3f} s, {rows * tokens / c:,.0f} tokens/s" for c in cells) + " |",
              flush=True)
    for told in workers.values():
        told.close()


if __name__ == "__main__":
    main()
