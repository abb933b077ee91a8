"""What reinforcement learning of every weight gains on the fixture, by TRL; prints a Markdown table.

    python benches/peers/full_rl.py --run target/peers/full [--rates 1e-4 3e-4 1e-3] [--seeds 1 2 3]

The budget is that of `tla train`: 60 steps of 24 problems × 8 answers. Every rate is tried with the first seed, the
best on the held-out problems with all of them, which favours this side. A run that is finished is not made again:
results.jsonl in the run folder remembers. `make peers-full` sets it up.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import checkpoint
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_worker import exact

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "fixtures" / "data"
TOKENS = 64


@torch.no_grad()
def accuracy(folder: Path, data: Path) -> float:
    """Share of problems whose greedy answer has the right `#### N`, read strictly, as `tla eval` counts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    ends, right = tokenizer.eos_token_id, 0.0
    by_length: dict[int, list[tuple[list[int], str]]] = {}
    for row in rows:
        text = tokenizer.apply_chat_template([{"role": "user", "content": row["question"]}], tokenize=False,
                                             add_generation_prompt=True)
        tokens = tokenizer.encode(text, add_special_tokens=False)
        by_length.setdefault(len(tokens), []).append((tokens, row["answer"].rsplit("#### ", 1)[1].strip()))
    for length, group in by_length.items():
        tokens = torch.tensor([row for row, _ in group])
        made = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=TOKENS,
                              eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)[:, length:].tolist()
        cut = [row[: row.index(ends) + 1] if ends in row else row for row in made]
        said = [[{"content": tokenizer.decode(row, skip_special_tokens=True)}] for row in cut]
        right += sum(exact(said, cut, [final for _, final in group], {ends}))
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is made")
    parser.add_argument("--rates", type=float, nargs="*", default=[3e-4, 1e-4, 1e-3, 3e-5])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    base = options.run / "checkpoint"
    checkpoint.rebuild(base)
    memory = options.run / "results.jsonl"
    known = [json.loads(line) for line in memory.read_text().splitlines()] if memory.exists() else []

    def result(rate: float, seed: int) -> dict:
        wanted = {"rate": rate, "seed": seed, "steps": options.steps}
        for row in known:
            if wanted.items() <= row.items():
                return row
        folder = options.run / "trained"
        done = subprocess.run(
            [sys.executable, HERE / "trl_worker.py", "--model", base, "--data", DATA / "train.jsonl", "--scratch",
             options.run / "scratch", "--save", folder, "--params", "0", "--clip", "1.0", "--rate", str(rate), "--seed",
             str(seed), "--steps", str(options.steps), "--threads", str(options.threads)],
            check=True, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        rewards = [line["reward_mean"] for line in lines if "step" in line]
        row = {**wanted, "trainable": lines[-1]["trainable"], "first": rewards[0],
               "last": statistics.mean(rewards[-5:]), "after": accuracy(folder, DATA / "heldout.jsonl"),
               "seconds": sum(line["seconds"] for line in lines if "step" in line)}
        known.append(row)
        with memory.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    before = accuracy(base, DATA / "heldout.jsonl")
    tried = {rate: result(rate, options.seeds[0]) for rate in options.rates}
    best = max(tried, key=lambda rate: tried[rate]["after"])
    rows = [*tried.values(), *(result(best, seed) for seed in options.seeds[1:])]
    print("| rate | seed | before | after | reward, last 5 steps | training |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['rate']:g} | {row['seed']} | {before:.1%} | {row['after']:.1%} | {row['last']:.2f} "
              f"| {row['seconds']:.0f} s |")
    chosen = [result(best, seed)["after"] for seed in options.seeds]
    print(f"\n{rows[0]['trainable']} weights, rate {best:g}: {before:.1%} → "
          f"{statistics.mean(chosen):.1%} on average of {len(chosen)} seeds.")


if __name__ == "__main__":
    main()
