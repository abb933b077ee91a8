"""GRPO by TRL, timed phase by phase: one JSON line a step on standard output, and one at the end.

Called by grpo_step.py and full_rl.py. With --params 0 every weight is trained, else PEFT's TinyLoRA of rank 2,
one vector for all modules. Settings follow `tla train`: one update per batch, no divergence term, every token
of a batch weighs the same, Adam without decay, and an answer that did not end is worth nothing.
"""

import argparse
import json
import re
import resource
import time
from pathlib import Path

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import TinyLoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

FINAL = re.compile(r"#### (-?[0-9.,]+)")


def problems(path: Path) -> Dataset:
    """Prompts as conversations, and the number after the hashes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return Dataset.from_list([{
        "prompt": [{"role": "user", "content": row["question"]}],
        "final": row["answer"].rsplit("#### ", 1)[1].strip(),
    } for row in rows])


def exact(completions, completion_ids, final, ends: set[int], **_) -> list[float]:
    """1 for an answer that ended and whose first `#### N` is the problem's."""
    worth = []
    for completion, tokens, expected in zip(completions, completion_ids, final, strict=True):
        found = FINAL.search(completion[0]["content"])
        worth.append(float(tokens[-1] in ends and found is not None and found[1] == expected))
    return worth


class Clocked(trl.GRPOTrainer):
    """The trainer, with a clock around its phases."""

    spent: dict[str, float]

    def clocked(self, phase: str, work, *arguments, **named):
        started = time.perf_counter()
        made = work(*arguments, **named)
        self.spent[phase] = self.spent.get(phase, 0.0) + time.perf_counter() - started
        return made

    def _generate(self, *arguments, **named):
        return self.clocked("rollout", super()._generate, *arguments, **named)

    def _calculate_rewards(self, *arguments, **named):
        return self.clocked("reward", super()._calculate_rewards, *arguments, **named)

    def compute_loss(self, *arguments, **named):
        return self.clocked("forward", super().compute_loss, *arguments, **named)

    def _prepare_inputs(self, *arguments, **named):
        return self.clocked("prepared", super()._prepare_inputs, *arguments, **named)

    def training_step(self, *arguments, **named):
        return self.clocked("stepped", super().training_step, *arguments, **named)


class Teller(TrainerCallback):
    """Prints a line a step, from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.trainer: Clocked | None = None
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        now = time.perf_counter()
        spent, self.trainer.spent = self.trainer.spent, {}
        whole, self.last = now - self.last, now
        rollout, reward = spent["rollout"], spent["reward"]
        gradient = spent["stepped"] - spent["prepared"]
        metrics = {name: values[-1] for name, values in self.trainer._metrics["train"].items() if values}
        print(json.dumps({
            "step": state.global_step, "seconds": whole, "rollout": rollout, "reward": reward,
            "gradient": gradient, "forward": spent["forward"], "rest": whole - rollout - reward - gradient,
            "reward_mean": metrics["reward"], "length": metrics["completions/mean_length"],
            "flat": metrics["frac_reward_zero_std"],
        }), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="a folder that the trainer may write to")
    parser.add_argument("--save", type=Path, help="where the trained checkpoint goes, with --params 0")
    parser.add_argument("--params", type=int, default=13)
    parser.add_argument("--modules", default="gate_proj,down_proj")
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--clip", type=float, default=0.0, help="largest norm of a gradient, 0 for any")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, default=0, help="answers in one pass of the gradient, 0 for all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}

    def strict(**given) -> list[float]:
        return exact(ends=ends, **given)

    adapter = TinyLoraConfig(
        r=2, u=options.params, weight_tying=1.0, target_modules=options.modules.split(","), task_type="CAUSAL_LM",
    ) if options.params else None
    rows = options.problems * options.samples
    micro = options.rows or rows
    settings = trl.GRPOConfig(
        output_dir=str(options.scratch), use_cpu=True, bf16=False, seed=options.seed, max_steps=options.steps,
        per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro, generation_batch_size=rows,
        num_generations=options.samples, max_completion_length=options.max_tokens, temperature=1.0, top_k=0, top_p=1.0,
        beta=0.0, loss_type="dapo", scale_rewards="group", num_iterations=1, learning_rate=options.rate,
        lr_scheduler_type="constant_with_warmup", warmup_steps=options.warmup, weight_decay=0.0,
        max_grad_norm=options.clip, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False,
    )
    teller = Teller()
    trainer = Clocked(
        model=model, reward_funcs=strict, args=settings,
        train_dataset=problems(options.data), processing_class=tokenizer, peft_config=adapter, callbacks=[teller],
    )
    teller.trainer, trainer.spent = trainer, {}
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    trainer.remove_callback(transformers.PrinterCallback)
    teller.last = time.perf_counter()
    trainer.train()
    if options.save:
        trainer.model.save_pretrained(options.save)
        tokenizer.save_pretrained(options.save)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    versions = {m.__name__: m.__version__ for m in (torch, transformers, trl, peft)}
    print(json.dumps({"peak_bytes": peak, "trainable": trainable, "versions": versions}), flush=True)


if __name__ == "__main__":
    main()
