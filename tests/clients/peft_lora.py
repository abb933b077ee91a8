"""PEFT loads the LoRA that `tla export` wrote, and `tla import` reads what PEFT saved.

Both must have the logits of the checkpoint that `tla merge` made of the same adapter.
"""

import sys
import warnings
from pathlib import Path

import models
import peft
import torch
import transformers

NEAR, APART = 1e-4, 1e-2
# PEFT saves bases from an SVD in 32 bits, here up to 1.5e-5 off those of the weights.
NEAR_TINYLORA = 2e-4


def load(folder: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of two rows of 96 tokens."""
    tokens = torch.arange(192).reshape(2, 96)
    with torch.no_grad():
        return model(input_ids=tokens).logits


def check(name: str, base: Path, adapter: Path, merged: Path, near: float) -> bool:
    adapted = logits(peft.PeftModel.from_pretrained(load(base), adapter).eval())
    error = (adapted - logits(load(merged))).abs().max().item()
    change = (adapted - logits(load(base))).abs().max().item()
    print(f"{name}: {error:.1e} from the merged checkpoint (at most {near}), {change:.2f} from the base")
    return error <= near and change >= APART


def main() -> None:
    made = Path(sys.argv[1])
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    # PEFT only warns where an adapter lacks what its configuration promises.
    warnings.filterwarnings("error", message=".*missing adapter keys.*")
    passed = [check(f"LoRA of {name}", models.EXPORTS / name, made / f"lora-{name}", made / f"merged-{name}", NEAR)
              for name in models.CHECKPOINTS]
    untied = models.CHECKPOINTS[1]
    passed.append(check(f"LoRA of {untied}'s head and one layer", models.EXPORTS / untied,
                        made / f"lora-{untied}-head", made / f"merged-{untied}-head", NEAR))
    passed.append(check("PEFT's TinyLoRA", models.EXPORTS / "hf-qwen2-tied",
                        models.EXPORTS / "peft/tinylora-fp32-projTrue", made / "merged-tinylora", NEAR_TINYLORA))
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
