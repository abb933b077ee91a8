"""A step of GRPO by `tla train` and by TRL with PEFT's TinyLoRA, in turn on one machine; prints a Markdown table.

    python benches/peers/grpo_step.py --tla target/release/tla --run target/peers/grpo

The same model, problems, group, batch, lengths, threads and step size on both sides; `make peers-grpo` sets it up.
Short runs of the two alternate, so that whatever else the machine does falls on both. The first step of a run warms
up and does not count; the others are pooled, and a cell is their median.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import checkpoint

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "fixtures" / "data" / "train.jsonl"
PHASES = ["rollout", "reward", "gradient", "rest"]


def run(line: list) -> tuple[str, int]:
    """Standard output, and the most memory the process held, in bytes."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    child = subprocess.Popen(list(map(str, line)), stdout=subprocess.PIPE, text=True, env=environment)
    told = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, line))}\nfailed")
    return told, usage.ru_maxrss * 1024


def shared(options: argparse.Namespace) -> list:
    """What both programs are told in the same words."""
    return ["--data", options.data, "--steps", options.steps, "--problems", options.problems, "--samples",
            options.samples, "--max-tokens", options.max_tokens, "--threads", options.threads]


def theirs(options: argparse.Namespace, seed: int) -> tuple[list[dict], int, dict]:
    modules = ",".join(f"{role}_proj" for role in options.roles.split(","))
    told, peak = run([sys.executable, HERE / "trl_worker.py", "--model", options.checkpoint, "--scratch",
                      options.run / "trl", "--params", options.params, "--modules", modules, "--rate", options.rate,
                      "--seed", seed, *shared(options)])
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    steps = [line for line in lines if "step" in line]
    tokens = options.problems * options.samples
    return [{**step, "tokens": step["length"] * tokens} for step in steps], peak, lines[-1]


def ours(options: argparse.Namespace, seed: int) -> tuple[list[dict], int, dict]:
    folder = options.run / f"tla-{options.label}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _, peak = run([options.tla, "train", "--model", options.model, "--out", folder / "adapter.tla", "--run", folder,
                   "--roles", options.roles, "--seed", options.seed, "--params", options.params, "--learning-rate",
                   options.rate, "--run-seed", seed, *shared(options), *options.more, "--json"])
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    steps = []
    for line in (line for line in lines if line["kind"] == "step"):
        # Journals without reward_seconds count the rewards as sampling, and those without gradient_seconds
        # call all the rest of a step its gradient.
        reward = line.get("reward_seconds", 0.0)
        rollout = line["rollout_seconds"]
        gradient = line.get("gradient_seconds", line["seconds"] - rollout - reward)
        steps.append({
            "seconds": line["seconds"], "rollout": rollout, "reward": reward, "gradient": gradient,
            "rest": line["seconds"] - rollout - reward - gradient, "tokens": line["tokens"],
            "reward_mean": line["reward_mean"], "flat": line["groups_without_variance"] / line["groups"],
        })
    return steps, peak, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tla", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--model", type=Path, default=checkpoint.FIXTURE, help="the ONNX export")
    parser.add_argument("--checkpoint", type=Path, help="the same model for transformers [default: rebuilt]")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=4, help="runs of each side")
    parser.add_argument("--steps", type=int, default=9, help="steps in a run")
    parser.add_argument("--skip", type=int, default=1, help="first steps of a run that do not count")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--params", type=int, default=13)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--roles", default="gate,down")
    parser.add_argument("--seed", type=int, default=2981, help="of our projection")
    parser.add_argument("--label", default="one")
    parser.add_argument("more", nargs="*", help="further arguments of `tla train`, after --")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    if options.checkpoint is None:
        options.checkpoint = options.run / "checkpoint"
        difference = checkpoint.rebuild(options.checkpoint, options.model)
        print(f"Checkpoint rebuilt from the export: logits differ by at most {difference:.1e}.\n")

    sides = {"tla": ours, "TRL": theirs}
    steps: dict[str, list[dict]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    ratios, versions = [], {}
    for turn in range(1, options.rounds + 1):
        medians = {}
        for name in sorted(sides, reverse=turn % 2 == 0):
            found, peak, about = sides[name](options, turn)
            counted = found[options.skip:]
            steps[name] += counted
            peaks[name] = max(peaks[name], peak)
            versions |= about.get("versions", {})
            medians[name] = statistics.median(step["seconds"] for step in counted)
        ratios.append(medians["TRL"] / medians["tla"])
        print(f"round {turn}: tla {medians['tla']:.3f} s, TRL {medians['TRL']:.3f} s a step, ratio {ratios[-1]:.2f}",
              file=sys.stderr, flush=True)

    def median(name: str, field: str) -> float:
        return statistics.median(step[field] for step in steps[name])

    spoken = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{options.problems} problems × {options.samples} answers of at most {options.max_tokens} tokens, "
          f"{options.params} numbers on {options.roles}, rate {options.rate}, {options.threads} threads, "
          f"{options.rounds} runs of {options.steps} steps each; {spoken}\n")
    print("| | " + " | ".join(PHASES) + " | a step | tokens | flat groups | mean reward | peak memory |")
    print("|---" * (len(PHASES) + 6) + "|")
    for name in sides:
        cells = [f"{median(name, phase):.3f} s" for phase in [*PHASES, "seconds"]]
        mean = statistics.mean(step["reward_mean"] for step in steps[name])
        flat = statistics.mean(step["flat"] for step in steps[name])
        print(f"| {name} | " + " | ".join(cells) + f" | {median(name, 'tokens'):.0f} | {flat:.0%} | {mean:.2f} "
              f"| {peaks[name] / 2**20:.0f} MiB |")
    print(f"\nTRL's step takes {median('TRL', 'seconds') / median('tla', 'seconds'):.2f} times as long "
          f"(of the rounds: {min(ratios):.2f} to {max(ratios):.2f}).")
    print(json.dumps({"ratio": median("TRL", "seconds") / median("tla", "seconds"), "rounds": ratios,
                      "tla": {p: median("tla", p) for p in [*PHASES, "seconds", "tokens"]},
                      "trl": {p: median("TRL", p) for p in [*PHASES, "seconds", "tokens"]}, "peaks": peaks}))


if __name__ == "__main__":
    main()
