"""onnxruntime-genai generates from folders that `tla bake` made, merged and grafted.

Prompts go through the baked tokenizer and chat template. A graft whose values are zero must say what
the base says, and what the adapter says once ONNX Runtime's adapter API gives it the values.
"""

import json
import sys
from pathlib import Path

import models
import numpy
import onnxruntime_genai as og

PROMPTS = ["12 + 30 = ?", "Name 3 fruits.", "a longer question, about nothing in particular: why?"]
TOKENS = 24


def generate(folder: Path, values: Path | None = None) -> list[list[int]]:
    """The greedy tokens after each prompt."""
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    if values:
        adapters = og.Adapters(model)
        adapters.load(str(values), "tla")
    answers = []
    for prompt in PROMPTS:
        messages = json.dumps([{"role": "user", "content": prompt}])
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        tokens = numpy.asarray(tokenizer.encode(text), numpy.int32)
        options = og.GeneratorParams(model)
        options.set_search_options(do_sample=False, max_length=len(tokens) + TOKENS)
        generator = og.Generator(model, options)
        if values:
            generator.set_active_adapter(adapters, "tla")
        generator.append_tokens(tokens[None])
        while not generator.is_done():
            generator.generate_next_token()
        answers.append(generator.get_sequence(0).tolist()[len(tokens):])
    return answers


def main() -> None:
    made = Path(sys.argv[1])
    print(f"onnxruntime-genai {og.__version__}")
    passed = True
    for name in models.GENAI:
        base, values = generate(models.EXPORTS / name), made / f"{name}.values"
        merged, grafted = generate(made / f"{name}.merged"), generate(made / f"{name}.grafted")
        checks = {
            "the graft differs from the base": grafted != base,
            "merged differs from the base": merged != base,
            "a graft of zeros is the base": generate(made / f"{name}.idle") == base,
            "the adapter API makes it the graft": generate(made / f"{name}.idle", values) == grafted,
        }
        # A merge into four bits is rounded to their grid, a graft is not.
        if "int4" not in name:
            checks["merged and grafted agree"] = merged == grafted
        print(f"{name}: {sum(map(len, grafted))} tokens; " +
              "; ".join(f"{what}: {'yes' if yes else 'NO'}" for what, yes in checks.items()))
        passed &= all(checks.values())
    sys.exit(not passed)


if __name__ == "__main__":
    main()
