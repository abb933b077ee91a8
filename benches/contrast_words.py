"""The fixture's solutions in other words: the same steps, said as the base model never says them.

The fixture's own solutions are what the base itself writes when it reasons: `9 * 3 = 27`. The solutions of GSM8K are
other people's. Here each step becomes a sentence of words that the problems use, in the order of the steps:
`There are 9 * 3, that is 27.` The line with the answer stays, for the reward reads it.
"""

import json
import re
from pathlib import Path

STEP = re.compile(r"(\d+ [-+*/] \d+) = (\d+)")


def reworded(solution: str) -> str:
    *steps, answer = solution.split("\n")
    said = []
    for index, step in enumerate(steps):
        found = STEP.fullmatch(step)
        if not found:
            raise SystemExit(f"not a step: {step!r}")
        said.append(f"{'Then there' if index else 'There'} are {found[1]}, that is {found[2]}.")
    return "\n".join([*said, answer])


def rewrite(data: Path, out: Path) -> Path:
    """A copy of JSON Lines in GSM8K's schema."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    out.write_text("".join(json.dumps({**row, "answer": reworded(row["answer"])}) + "\n" for row in rows))
    return out
