"""The paper's contrast on the fixture: reinforcement learning against supervised training by the number of numbers.

    python benches/contrast.py --tla target/release/tla --run target/contrast [--minutes 60] [--table-only]

Every cell is trained for 60 steps of `tla train` and evaluated greedily on the 800 held-out problems, once per run
seed. Supervised training imitates the fixture's solutions, which are the base's own way to reason, or the same in
other words (contrast_words.py); the latter at three rates with the first seed, and the best of them on the held-out
problems themselves, which favours it, with the others. Runs that are finished are remembered in results.jsonl in the run folder and not made again, so the bench can be
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
import contrast_words

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "fixtures" / "wordmath"
DATA = ROOT / "fixtures" / "data"
WIDTH = 13
MODULES = 28
SQUARE = 4
OTHER_RATES = [0.03, 0.003, 0.0003]


class Cell(NamedTuple):
    """What is trained how, and where it acts."""

    objective: str
    params: int
    placement: str
    tying: str = "tiled"
    form: str = "seeded"
    solutions: str = "own"

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


def in_other_words() -> list[Cell]:
    """The cells of supervised training on other people's solutions."""
    places = [(13, "auto"), (13, "spread"), (208, "auto"), (208, "spread"), (52, "auto"), (4, "auto"), (1, "auto")]
    order = [Cell("sft", params, where, solutions="other") for params, where in places]
    return [*order, Cell("sft", SQUARE * MODULES, "spread", form="unit", solutions="other")]


def key(cell: Cell, seed: int, rate: float | None = None) -> dict:
    return {**cell._asdict(), "seed": seed, **({"rate": rate} if rate else {})}


def trained(options: argparse.Namespace, cell: Cell, seed: int, rate: float | None) -> dict:
    """One run: what came of it, or what the program said was wrong."""
    folder = options.run / "one"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    adapter = folder / "adapter.tla"

    def tla(*arguments: object) -> tuple[str, str]:
        done = subprocess.run([options.tla, *map(str, arguments)], capture_output=True, text=True)
        said = done.stderr.strip().splitlines()
        return (done.stdout, "") if done.returncode == 0 else ("", said[-1] if said else f"exit {done.returncode}")

    more = ["--learning-rate", rate] if rate else []
    data = DATA / "train.jsonl"
    if cell.solutions == "other":
        data = contrast_words.rewrite(data, folder / "reworded.jsonl")
    started = time.monotonic()
    _, wrong = tla("train", "--model", MODEL, "--data", data, "--out", adapter, "--steps",
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

    def of(self, cell: Cell, seed: int, rate: float | None = None) -> dict | None:
        wanted = key(cell, seed, rate)
        known = ({"solutions": "own", **row} for row in reversed(self.rows))
        return next((row for row in known if wanted.items() <= row.items()), None)

    def best_rate(self, cell: Cell, seed: int) -> float | None:
        """Of a cell in other words, once all rates were tried."""
        tried = {rate: self.of(cell, seed, rate) for rate in OTHER_RATES}
        if not all(tried.values()):
            return None
        return max(OTHER_RATES, key=lambda rate: tried[rate].get("after", 0))

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


def chosen(memory: Memory, cell: Cell, seeds: list[int]) -> tuple[float | None, list[dict]]:
    """The rate that a cell runs at, where it is chosen, and its runs."""
    rate = memory.best_rate(cell, seeds[0]) if cell.solutions == "other" else None
    if cell.solutions == "other" and rate is None:
        return None, []
    return rate, [row for seed in seeds if (row := memory.of(cell, seed, rate))]


def table(memory: Memory, seeds: list[int]) -> str:
    """Rows by form and placement, a column for each way to learn."""
    lines = ["| numbers | placement | RL | SFT, its own words | SFT, other words |", "|---|---|---|---|---|"]
    ordered = sorted({cell._replace(objective="grpo") for cell in cells()},
                     key=lambda c: (c.placement, c.form, c.params, c.tying != "tiled"))
    for cell in ordered:
        found = [spoken(chosen(memory, cell._replace(objective=o), seeds)[1]) for o in ["grpo", "sft"]]
        other = cell._replace(objective="sft", solutions="other")
        rate, rows = chosen(memory, other, seeds)
        found.append((spoken(rows) + (f" at {rate:g}" if rate else "")) if other in in_other_words() else "")
        lines.append(f"| {cell.name} | {cell.placement} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def rates(memory: Memory, seed: int) -> str:
    """What every rate came to in other words."""
    lines = ["| numbers, in other words | placement | " + " | ".join(f"{rate:g}" for rate in OTHER_RATES) + " |",
             "|---|---|" + "---|" * len(OTHER_RATES)]
    for cell in sorted(in_other_words(), key=lambda c: (c.placement, c.form, c.params)):
        found = [memory.of(cell, seed, rate) for rate in OTHER_RATES]
        lines.append(f"| {cell.name} | {cell.placement} | " + " | ".join(spoken([r] if r else []) for r in found) + " |")
    return "\n".join(lines)


def curves(memory: Memory, seeds: list[int]) -> list[contrast_plot.Curve]:
    """Accuracy by the number of numbers, tiled; LoRA-XS as points of its own."""
    made = []
    ways = {("grpo", "own"): "RL", ("sft", "own"): "SFT", ("sft", "other"): "SFT, other words"}
    for (objective, solutions), label in ways.items():
        for placement in ["auto", "spread"]:
            for form in ["seeded", "unit"]:
                points = {}
                for cell in [*cells(), *in_other_words()]:
                    drawn = (cell.objective, cell.solutions, cell.placement, cell.form, cell.tying)
                    if drawn == (objective, solutions, placement, form, "tiled"):
                        rows = chosen(memory, cell, seeds)[1]
                        points[cell.params] = [row["after"] for row in rows if "error" not in row]
                points = {params: found for params, found in sorted(points.items()) if found}
                where = {"auto": "placed by the gradient", "spread": "on all modules"}[placement]
                name = f"{label}, {'LoRA-XS' if form == 'unit' else where}"
                if points:
                    made.append(contrast_plot.Curve(name, points, f"{objective} {solutions}", placement == "auto"))
    return made


def wanted(memory: Memory, seeds: list[int]):
    """What is to be run, one after the other: the best rate is known only after the first runs."""
    for seed in seeds:
        for cell in cells():
            yield cell, seed, None
        for cell in in_other_words():
            if seed == seeds[0]:
                yield from ((cell, seed, rate) for rate in OTHER_RATES)
            elif rate := memory.best_rate(cell, seeds[0]):
                yield cell, seed, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tla", type=Path, required=True, help="the program")
    parser.add_argument("--run", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after this")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    memory = Memory(options.run / "results.jsonl")
    ends = time.monotonic() + 60 * options.minutes
    for cell, seed, rate in [] if options.table_only else wanted(memory, options.seeds):
        known = memory.of(cell, seed, rate)
        if known and not (options.retry and "error" in known):
            continue
        if time.monotonic() >= ends:
            print("time is up; call again to go on", file=sys.stderr)
            break
        row = {**key(cell, seed, rate), **trained(options, cell, seed, rate)}
        memory.add(row)
        told = row.get("error") or f"{row['before']:.1%} to {row['after']:.1%} in {row['seconds']:.0f} s"
        way = f"{cell.objective}, {cell.solutions} words{f' at {rate:g}' if rate else ''}"
        print(f"{way}, {cell.name}, {cell.placement}, seed {seed}: {told}", file=sys.stderr, flush=True)
    print(f"{table(memory, options.seeds)}\n\n{rates(memory, options.seeds[0])}")
    base = [row["before"] for row in memory.rows if "before" in row]
    if options.plot and base:
        options.plot.write_text(contrast_plot.svg(curves(memory, options.seeds), base[0]))


if __name__ == "__main__":
    main()
