"""What the clients load, made by `tla` from the fixtures."""

import json
import random
import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FIXTURES = TESTS.parent / "fixtures"
EXPORTS = FIXTURES / "exports"
CHECKPOINTS = ["hf-qwen2-tied", "hf-llama-untied"]
# The head and one layer of two: PEFT is told whole paths, for it leaves out a head when layers are named.
HEAD_AND_LAYER = {"roles": ["q", "down", "lm_head"], "first_layer": 1, "layers": 1}
GENAI = ["genai-fp32-cpu/qwen2-tied", "genai-fp32-cpu/llama-untied", "genai-int4-cpu/qwen2-tied"]
QUESTIONS = 8


class Tla:
    """The program, and the folder it works in."""

    def __init__(self, program: Path, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.program, self.folder = program.resolve(), folder

    def __call__(self, *arguments: object) -> None:
        line = [self.program, *arguments]
        done = subprocess.run(list(map(str, line)), cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            told = " ".join(["tla", *map(str, arguments)])
            raise SystemExit(f"{told}\n{done.stdout}{done.stderr}clients: tla failed.")

    def pack(self, name: str, model: Path, scale: float, **chosen_modules: object) -> None:
        """13 values from a fixed seed; scale 0 is the base."""
        chosen = random.Random(1)
        v = [round(chosen.uniform(-1, 1), 3) * bool(scale) for _ in range(13)]
        recipe = {"v": v, "scale": scale or 1.0, **chosen_modules}
        (self.folder / f"{name}.json").write_text(json.dumps(recipe))
        self("pack", f"{name}.json", "--model", model, "-o", f"{name}.tla")


def peft(tla: Tla) -> None:
    """lora-NAME and merged-NAME, of the same adapter, and -head of HEAD_AND_LAYER; merged-tinylora, of what
    PEFT saved."""
    adapters = [(name, name, {}) for name in CHECKPOINTS]
    adapters.append((f"{CHECKPOINTS[1]}-head", CHECKPOINTS[1], HEAD_AND_LAYER))
    for name, base, chosen in adapters:
        model = EXPORTS / base
        tla.pack(name, model, 1.0, **chosen)
        tla("export", f"{name}.tla", "--to", "peft", "--model", model, "-o", f"lora-{name}")
        tla("merge", model, f"{name}.tla", "-o", f"merged-{name}/")
    model = EXPORTS / "hf-qwen2-tied"
    tla("import", EXPORTS / "peft/tinylora-fp32-projTrue", "--model", model, "-o", "tinylora.tla")
    tla("merge", model, "tinylora.tla", "-o", "merged-tinylora/")


def genai(tla: Tla) -> None:
    """STYLE/MODEL.merged and .grafted of one adapter, .idle with values of zero, .values for the API."""
    for name in GENAI:
        (tla.folder / name).parent.mkdir(exist_ok=True)
        tla.pack(name, EXPORTS / name, 1.0)
        tla.pack(f"{name}.idle", EXPORTS / name, 0.0)
        tla("bake", EXPORTS / name, f"{name}.tla", "-o", f"{name}.merged")
        tla("bake", EXPORTS / name, f"{name}.tla", "-o", f"{name}.grafted", "--graft")
        tla("bake", EXPORTS / name, f"{name}.idle.tla", "-o", f"{name}.idle", "--graft")
        tla("export", f"{name}.tla", "--to", "onnx-adapter", "-o", f"{name}.values")


def web(tla: Tla) -> None:
    """base, merged and grafted as transformers.js has a folder; answers.json as `tla eval` has them."""
    data = FIXTURES / "data/heldout.jsonl"
    base = tla.folder / "base"
    shutil.copytree(FIXTURES / "wordmath", base)
    (base / "onnx").mkdir()
    (base / "model.onnx").rename(base / "onnx/model.onnx")
    tla.pack("wordmath", base, 0.25)
    tla("bake", base, "wordmath.tla", "-o", "merged")
    tla("bake", base / "onnx/model.onnx", "wordmath.tla", "-o", "grafted", "--graft")
    answers = {}
    for name in ["base", "merged", "grafted"]:
        tla("eval", "--model", name, "--data", data, "--limit", QUESTIONS, "--answers", "answers.jsonl")
        lines = map(json.loads, (tla.folder / "answers.jsonl").read_text().splitlines())
        answers[name] = [{"question": line["question"], "text": line["text"]} for line in lines]
    (tla.folder / "answers.json").write_text(json.dumps(answers))


def report(tla: Tla) -> None:
    """run/report.html, of a journal whose answers try to be scripts."""
    (tla.folder / "run").mkdir()
    shutil.copy(TESTS / "report/journal.jsonl", tla.folder / "run")
    tla("report", "run")


def run(tla: Tla) -> None:
    """run/, of a few short steps."""
    tla("train", "--model", FIXTURES / "wordmath", "--data", FIXTURES / "data/train.jsonl", "--out", "a.tla",
        "--run", "run", "--steps", "4", "--problems", "6", "--samples", "4", "--roles", "down", "--seed", "7")
