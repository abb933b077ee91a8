"""What the specification fixes, timed beside its peers in one run; prints a Markdown table.

Needs requirements.txt beside it, and openssl. `make peers` sets up both and runs this.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import torch

THREADS = 2


def least(times: int, work) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def decaying(rows: int, cols: int) -> torch.Tensor:
    """Singular values k^-0.7."""
    u, _ = torch.linalg.qr(torch.randn(rows, rows))
    v, _ = torch.linalg.qr(torch.randn(cols, rows))
    return (u * torch.arange(1, rows + 1) ** -0.7) @ v.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="the built example spec_speed")
    program = parser.parse_args().program

    def ours(*arguments) -> dict:
        line = [program, *map(str, arguments)]
        return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    print(f"{THREADS} threads, torch {torch.__version__}; a time is the least of several\n")
    print("| matrix | tla basis, rank 2 | residual | linalg.svd | ratio | svd_lowrank(q=8, niter=2) | ratio |")
    print("|---|---|---|---|---|---|---|")
    matrices = {
        "3584×18944, spectrum k^-0.7": decaying(3584, 18944),
        "3584×3584, Gaussian": torch.randn(3584, 3584),
    }
    for name, w in matrices.items():
        rows, cols = w.shape
        with tempfile.NamedTemporaryFile(suffix=".f32") as file:
            w.contiguous().numpy().tofile(file.name)
            found = ours("basis", file.name, rows, cols, 2, THREADS)
        full = least(1, lambda w=w: torch.linalg.svd(w, full_matrices=False))
        low = least(5, lambda w=w: torch.svd_lowrank(w, q=8, niter=2))
        again = found["seconds"]
        print(f"| {name} | {again:.3f} s | {found['residual']:.1e} | {full:.1f} s | {full / again:.0f} "
              f"| {low:.3f} s | {low / again:.1f} |", flush=True)

    line = ["openssl", "speed", "-seconds", "2", "-bytes", "16384", "sha256"]
    spoken = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    one = float(re.findall(r"sha256\s+([\d.]+)k", spoken)[-1]) * 1e3
    digest = ours("digest", 1 << 30, THREADS)["bytes_per_second"]
    decode = ours("decode")
    print(f"\nDigest of f32 weights: {digest / 1e9:.2f} GB/s, openssl speed sha256 × {THREADS} threads: "
          f"{THREADS * one / 1e9:.2f} GB/s, ratio {digest / one / THREADS:.2f}")
    print(f"Decode and check {decode['bytes']} bytes: {decode['seconds'] * 1e6:.2f} µs")


if __name__ == "__main__":
    main()
