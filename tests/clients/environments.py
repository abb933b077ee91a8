"""Installs what a client needs under target/clients, once, or says why it cannot be had."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNREACHABLE = re.compile(
    r"connection broken by|NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known"
    r"|name resolution|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH"
)


class Missing(Exception):
    """What a client needs cannot be had here, through no fault of the project."""


def install(line: list, folder: Path) -> None:
    """Runs an installer; only one that cannot reach its registry is a reason to skip."""
    print("$", " ".join(map(str, line)), flush=True)
    done = subprocess.run(list(map(str, line)), cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if UNREACHABLE.search(said):
        raise Missing(f"the registry of {Path(line[0]).name} cannot be reached")
    sys.exit(f"{said}\nclients: {' '.join(map(str, line))} failed.")


def python(name: str, root: Path) -> Path:
    """The interpreter of a virtual environment with what NAME.txt lists."""
    wanted = HERE / f"{name}.txt"
    folder, ready = root / name, root / name / "installed.txt"
    program = folder / "bin" / "python"
    if not ready.exists() or ready.read_text() != wanted.read_text():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
                 "--retries", "2", "-r", wanted], root)
        shutil.copyfile(wanted, ready)
    return program


def node(root: Path, name: str = "node", only: tuple = ()) -> Path:
    """A folder with the packages of package.json, or only some of them, and the scripts, which look for
    packages beside them."""
    if not (shutil.which("node") and shutil.which("npm")):
        raise Missing("node and npm are not installed")
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < 20:
        raise Missing(f"node is {version.strip()}, and 20 is needed")
    package = json.loads((HERE / "package.json").read_text())
    if only:
        package["dependencies"] = {name: package["dependencies"][name] for name in only}
    wanted = json.dumps(package)
    folder = root / name
    ready = folder / "installed.json"
    if not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "package.json").write_text(wanted)
        # Scripts of packages fetch GPU libraries and other browsers from elsewhere.
        install(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock",
                 "--fetch-retries=1"], folder)
        ready.write_text(wanted)
    for script in [*HERE.glob("*.mjs"), *HERE.glob("*.html")]:
        shutil.copy(script, folder)
    return folder


def offline(root: Path) -> dict:
    """The environment of a client: no hub, and what it unpacks stays under target."""
    scratch = root / "tmp"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(scratch)}
