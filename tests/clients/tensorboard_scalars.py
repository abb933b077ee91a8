"""TensorBoard's own reader on the event files of a run: every number is the journal's."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Tag, and what it is of a step line.
SCALARS = {
    "train/reward": lambda step: step["reward_mean"],
    "train/length": lambda step: step["completion_length_mean"],
    "train/groups_without_variance": lambda step: step["groups_without_variance"],
    "train/loss": lambda step: step["loss"],
    "train/grad_norm": lambda step: step["grad_norm"],
    "train/v_norm": lambda step: step["v_norm"],
    "train/learning_rate": lambda step: step["learning_rate"],
    "time/step": lambda step: step["seconds"],
    "time/rollout": lambda step: step["rollout_seconds"],
}


def main() -> None:
    run = Path(sys.argv[1]) / "run"
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    faults = []
    for tag, of in SCALARS.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        wanted = [(step["step"], of(step)) for step in steps]
        near = [a[0] == b[0] and abs(a[1] - b[1]) <= 1e-6 * abs(b[1]) for a, b in zip(found, wanted)]
        if len(found) != len(wanted) or not all(near):
            faults.append(f"{tag}: {found} for {wanted}")
    v = [events.Scalars(f"v/{at}")[-1].value for at in range(13)]
    histogram = events.Histograms("v")[-1].histogram_value
    norm = sum(x * x for x in v) ** 0.5
    # The journal's norm is of the master copy, these are as they ship, with 8 bits of mantissa.
    if abs(norm - steps[-1]["v_norm"]) > 4e-3 * norm or histogram.num != 13 or histogram.max != max(v):
        faults.append(f"v: {v}, {histogram}, norm {steps[-1]['v_norm']}")
    print(f"tensorboard {version('tensorboard')}: {len(SCALARS) + 13} curves of {len(steps)} steps")
    print(*faults, sep="\n", end="")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
