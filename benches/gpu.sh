#!/usr/bin/env bash
# What tla does on an NVIDIA device: correctness against the CPU, the demo, the time of a step and
# the memory it takes. Written without a device at hand and not yet run on one.
#
# usage: benches/gpu.sh [OUT_DIR]
#
# Needs the built program (cargo build --release), the tests (cargo test --no-run --test on_cuda),
# nvidia-smi, python3, and onnxruntime-gpu 1.31.1: ORT_DYLIB_PATH names its libonnxruntime, and the
# CUDA 13 libraries are on LD_LIBRARY_PATH. HALF_BILLION names a folder made by
# benches/peers/make_half_billion.py; without it that part is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/gpu}
tla=target/release/tla
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

say "machine"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/machine.txt"
"$tla" --version | tee -a "$out/machine.txt"

say "log-probabilities and gradients against the CPU"
cargo test --test on_cuda -- --ignored --nocapture | tee "$out/against_cpu.txt"

say "the demo"
train() { # DEVICE-OPTIONS...
    "$tla" train --model fixtures/wordmath --data fixtures/data/train.jsonl --out "$out/a.tla" \
        --run "$out/a.run" --run-seed 1 --json "$@"
}
rm -rf "$out/a.tla" "$out/a.run"
train --provider cuda | tee "$out/demo_train.json"
"$tla" eval --model fixtures/wordmath --data fixtures/data/heldout.jsonl --adapter "$out/a.tla" \
    --provider cuda --json | tee "$out/demo_eval.json"

say "a step, and the device memory that stays when graphs are used in turn"
watch_memory() { # FILE: the device's used memory, four times a second, until killed
    while :; do
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -i 0 >>"$1"
        sleep 0.25
    done
}
measure() { # NAME MODEL DATA OPTIONS...
    local name=$1 model=$2 data=$3
    shift 3
    rm -rf "$out/$name.tla" "$out/$name.run" "$out/$name.memory"
    watch_memory "$out/$name.memory" &
    local watcher=$!
    "$tla" train --model "$model" --data "$data" --out "$out/$name.tla" --run "$out/$name.run" \
        --roles down --seed 1 --json "$@" | tee "$out/$name.json" || true
    kill "$watcher" && wait "$watcher" 2>/dev/null || true
    sort -n "$out/$name.memory" | tail -1 | sed "s/^/$name: peak device MiB /"
    cp "$out/$name.run/journal.jsonl" "$out/$name.journal.jsonl" || true
}
measure fixture-cpu fixtures/wordmath fixtures/data/train.jsonl --steps 20 --provider cpu
measure fixture-cuda fixtures/wordmath fixtures/data/train.jsonl --steps 20 --provider cuda
if [ -n "${HALF_BILLION:-}" ]; then
    # Untrained: no answer is right, so a step is its rollout. The journal has the phases.
    measure half-billion "$HALF_BILLION" fixtures/data/train.jsonl --steps 5 --provider cuda
fi
