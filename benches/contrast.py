"""The paper's contrast on the fixture: reinforcement learning against supervised training by the number of numbers.

    python benches/contrast.py --tla target/release/tla --run target/contrast [--minutes 60] [--table-only]

Every cell is trained for 60 steps of `tla train` and evaluated greedily on the 800 held-out problems, once per run
seed. Runs that are finished are remembered in results.jsonl in the run folder and not made again, so the bench can be
stopped and called again; the cells that say most come first, all of them with one seed before any with the next.
What is known is printed as a Markdown table and drawn to --plot. Standard library only; `make contrast` runs it.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import contrast_plot

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "fixtures" / "wordmath"
DATA = ROOT / "fixtures" / "data"
WIDTH = 13
MODULES = 28
SQUARE = 4


class Cell(NamedTuple):
    """What is trained how, and where it acts."""

    objective: str
    params: int
    placement: str
    tying: str = "tiled"
    form: str = "seeded"

    @property
    def groups(self) -> int:
        if self.form == "unit":
            return MODULES
        return max(1, self.params // WIDTH) if self.params > WIDTH else 1

    @property
    def name(self) -> str:
        """Of the row, whatever the objective."""
        what = f"{self.params}, LoRA-XS" if self.form == "unit" else str(self.params)
        return f"{what} ({self.groups} groups, {self.tying})" if self.groups > 1 else what

    def arguments(self, seed: int) -> list[str]:
        """Of `tla train`. A spread update takes the run's seed for its projection: nothing is chosen."""
        line = ["--objective", self.objective, "--width", str(self.params // self.groups), "--groups", str(self.groups),
                "--tying", self.tying, "--run-seed", str(seed)]
        if self.form == "unit":
            line += ["--projection", "unit"]
        return line + (["--roles", "all", "--seed", str(seed)] if self.placement == "spread" else ["--roles", "auto"])


def cells() -> list[Cell]:
    """In the order they are run: 13 first, then how many, then how tied."""
    both = ["grpo", "sft"]
    order = [Cell(o, 13, where) for where in ["auto", "spread"] for o in both]
    order += [Cell(o, params, "auto") for params in [1, 4, 52, 208] for o in both]
    order += [Cell(o, SQUARE * MODULES, "spread", form="unit") for o in both]
    order += [Cell(o, params, "spread") for params in [208, 52, 4, 1] for o in both]
    order += [Cell(o, params, where, "structured")
              for where in ["auto", "spread"] for params in [52, 208] for o in both]
    return order


def key(cell: Cell, seed: int) -> dict:
    return {**cell._asdict(), "seed": seed}


def trained(options: argparse.Namespace, cell: Cell, seed: int) -> dict:
    """One run: what came of it, or what the program said was wrong."""
    folder = options.run / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    adapter = folder / "adapter.tla"

    def tla(*arguments: object) -> tuple[str, str]:
        done = subprocess.run([options.tla, *map(str, arguments)], capture_output=True, text=True)
        said = done.stderr.strip().splitlines()
        return (done.stdout, "") if done.returncode == 0 else ("", said[-1] if said else f"exit {done.returncode}")

    rate = {"grpo": options.rate, "sft": options.sft_rate}[cell.objective]
    more = ["--learning-rate", rate] if rate else []
    started = time.monotonic()
    _, wrong = tla("train", "--model", MODEL, "--data", DATA / "train.jsonl", "--out", adapter, "--steps",
                   options.steps, "--threads", options.threads, *cell.arguments(seed), *more)
    if wrong:
        return {"error": wrong}
    seconds = time.monotonic() - started
    told, wrong = tla("eval", "--model", MODEL, "--data", DATA / "heldout.jsonl", "--adapter", adapter, "--threads",
                      options.threads, "--json")
    if wrong:
        return {"error": wrong}
    figures = json.loads(told)
    shown = json.loads(tla("show", adapter, "--json")[0])
    paired = figures["paired"]
    return {
        "after": figures["accuracy"], "n": figures["n"], "p": paired["p"], "seconds": round(seconds, 1),
        "before": (figures["correct"] - paired["gained"] + paired["lost"]) / figures["n"],
        "roles": shown["roles"], "projection_seed": shown["seed"], "bytes": adapter.stat().st_size,
    }


class Memory:
    """The runs that are finished, in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        # A line cut short by a kill is a run that is not finished.
        self.rows = [row for row in map(self.parsed, lines) if row]

    @staticmethod
    def parsed(line: str) -> dict:
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            return {}

    def of(self, cell: Cell, seed: int) -> dict | None:
        wanted = key(cell, seed)
        return next((row for row in reversed(self.rows) if wanted.items() <= row.items()), None)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        whole = "".join(json.dumps(row) + "\n" for row in self.rows)
        beside = self.path.with_suffix(".tmp")
        beside.write_text(whole)
        beside.replace(self.path)


def spoken(rows: list[dict]) -> str:
    """Mean and range of the seeds; how many runs failed, if some did."""
    good = [row["after"] for row in rows if "error" not in row]
    failed = len(rows) - len(good)
    text = f"{statistics.mean(good):.1%} ({min(good):.1%} to {max(good):.1%}, {len(good)})" if good else ""
    return ", ".join(filter(None, [text, f"{failed} failed" if failed else ""])) or "not run"


def table(memory: Memory, seeds: list[int]) -> str:
    """Rows by form and placement, a column for each objective."""
    lines = ["| numbers | placement | RL | SFT |", "|---|---|---|---|"]
    ordered = sorted({cell._replace(objective="grpo") for cell in cells()},
                     key=lambda c: (c.placement, c.form, c.params, c.tying != "tiled"))
    for cell in ordered:
        found = [[row for seed in seeds if (row := memory.of(cell._replace(objective=o), seed))]
                 for o in ["grpo", "sft"]]
        lines.append(f"| {cell.name} | {cell.placement} | " + " | ".join(map(spoken, found)) + " |")
    return "\n".join(lines)


def curves(memory: Memory, seeds: list[int]) -> list[contrast_plot.Curve]:
    """Accuracy by the number of numbers, tiled; LoRA-XS as points of its own."""
    made = []
    for objective, label in {"grpo": "RL", "sft": "SFT"}.items():
        for placement in ["auto", "spread"]:
            for form in ["seeded", "unit"]:
                points = {}
                for cell in cells():
                    if (cell.objective, cell.placement, cell.form, cell.tying) == (objective, placement, form, "tiled"):
                        rows = [memory.of(cell, seed) for seed in seeds]
                        points[cell.params] = [row["after"] for row in rows if row and "error" not in row]
                points = {params: found for params, found in sorted(points.items()) if found}
                where = {"auto": "placed by the gradient", "spread": "on all modules"}[placement]
                name = f"{label}, {'LoRA-XS' if form == 'unit' else where}"
                if points:
                    made.append(contrast_plot.Curve(name, points, objective == "grpo", placement == "auto"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tla", type=Path, required=True, help="the program")
    parser.add_argument("--run", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, help="step size of RL [default: the program's]")
    parser.add_argument("--sft-rate", type=float, help="step size of SFT [default: the program's]")
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    memory = Memory(options.run / "results.jsonl")
    ends = time.monotonic() + 60 * options.minutes
    wanted = [(cell, seed) for seed in options.seeds for cell in cells()]
    for index, (cell, seed) in enumerate([] if options.table_only else wanted, start=1):
        known = memory.of(cell, seed)
        if known and not (options.retry and "error" in known):
            continue
        if time.monotonic() >= ends:
            print(f"time is up before run {index} of {len(wanted)}; call again to go on", file=sys.stderr)
            break
        row = {**key(cell, seed), **trained(options, cell, seed)}
        memory.add(row)
        told = row.get("error") or f"{row['before']:.1%} to {row['after']:.1%} in {row['seconds']:.0f} s"
        print(f"{index} of {len(wanted)}: {cell.objective}, {cell.name}, {cell.placement}, seed {seed}: {told}",
              file=sys.stderr, flush=True)
    print(table(memory, options.seeds))
    base = [row["before"] for row in memory.rows if "before" in row]
    if options.plot and base:
        options.plot.write_text(contrast_plot.svg(curves(memory, options.seeds), base[0]))


if __name__ == "__main__":
    main()
