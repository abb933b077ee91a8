"""Installs clients under target/clients, makes their models with `tla`, and runs them.

A client that cannot be had here is skipped, with the reason. Exit status 1 if one fails.
"""

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

import environments
import models

ROOT = Path(__file__).resolve().parents[2] / "target" / "clients"


def peft() -> list:
    """CLIENTS_PEFT_PYTHON names an interpreter that has what peft.txt lists, or near it."""
    given = os.environ.get("CLIENTS_PEFT_PYTHON")
    return [given or environments.python("peft", ROOT), environments.HERE / "peft_lora.py"]


def genai() -> list:
    return [environments.python("genai", ROOT), environments.HERE / "genai_tokens.py"]


def transformers_js() -> list:
    return ["node", environments.node(ROOT) / "transformers_js.mjs"]


def chromium() -> str:
    """CLIENTS_CHROMIUM names a Chromium or Chrome; the one from npm is for Linux on x86-64."""
    given = os.environ.get("CLIENTS_CHROMIUM", "")
    if not given and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise environments.Missing("npm has no Chromium for this machine. Name one in CLIENTS_CHROMIUM")
    return given


def browser() -> list:
    chromium()
    return ["node", environments.node(ROOT) / "browser.mjs"]


def report() -> list:
    packages = ("puppeteer-core",) if chromium() else ("puppeteer-core", "@sparticuz/chromium")
    return ["node", environments.node(ROOT, "node-page", packages) / "report.mjs"]


def tensorboard() -> list:
    return [environments.python("tensorboard", ROOT), environments.HERE / "tensorboard_scalars.py"]


# What runs it, what makes its models, and what it gets after their folder.
CLIENTS = {
    "peft": (peft, models.peft, []),
    "genai": (genai, models.genai, []),
    "transformers-js": (transformers_js, models.web, []),
    "browser": (browser, models.web, [os.environ.get("CLIENTS_CHROMIUM", "")]),
    "report": (report, models.report, [os.environ.get("CLIENTS_CHROMIUM", "")]),
    "tensorboard": (tensorboard, models.run, []),
}

# By exit status; 77 as in other test harnesses.
RESULTS = {0: "passed", 77: "skipped: it cannot start on this machine"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tla", required=True, type=Path, help="the program")
    parser.add_argument("client", nargs="*", help=f"which, instead of all: {', '.join(CLIENTS)}")
    options = parser.parse_args()
    if unknown := set(options.client) - set(CLIENTS):
        parser.error(f"no client is called {', '.join(sorted(unknown))}")
    ROOT.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in options.client or CLIENTS:
        prepare, make, more = CLIENTS[name]
        print(f"== {name}", flush=True)
        try:
            line = prepare()
        except environments.Missing as why:
            results[name] = f"skipped: {why}"
            continue
        made = ROOT / "models" / name
        make(models.Tla(options.tla, made))
        line = list(map(str, [*line, made, *more]))
        status = subprocess.run(line, env=environments.offline(ROOT)).returncode
        results[name] = RESULTS.get(status, "failed")
    for name, result in results.items():
        print(f"{name}: {result}")
    sys.exit("failed" in results.values())


if __name__ == "__main__":
    main()
