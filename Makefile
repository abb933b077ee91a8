# Everything a fresh machine needs beyond Rust, Python 3 and make is set up here.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := target/demo
MICRO := tests/no-std/Cargo.toml
FUZZ := decode encode onnx wire checkpoint digest recipe dataset answers template
SECONDS ?= 60
SANITIZER ?= none
CARGO_FUZZ ?= cargo +nightly fuzz

.PHONY: build setup demo figures micro test test-native lint vectors fuzz fuzz-corpus mutants bench \
	merge-cost graft-cost peers peers-trl peers-grpo peers-half peers-rollouts peers-full contrast clients \
	quantised real proto-check cuda-kernels

build:
	cargo build --release

setup: $(READY)

$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# Trains 13 numbers with RL on the fixture model, then packs, verifies, merges and evaluates.
demo: setup build
	$(VENV)/bin/python fixtures/demo.py --tla target/release/tla --run $(RUN) $(DEMO)

# The tables of benches/results/fixture.md: 27 runs of the demo.
figures: setup build
	$(VENV)/bin/python fixtures/figures.py --tla target/release/tla --run $(RUN) --table placement
	$(VENV)/bin/python fixtures/figures.py --tla target/release/tla --run $(RUN) --table parameters

test: setup lint
	cargo build --no-default-features
	cargo test --features parquet
	$(MAKE) test-native

lint:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
	cargo fmt --manifest-path $(MICRO) --check
	cargo clippy --manifest-path $(MICRO) --target-dir target/no-std -- -D warnings

# The same digests from a build for this CPU: no result may depend on the target.
test-native:
	RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=target/native \
		cargo test --no-default-features --features std --test projection_laws

# Flash and stack of the heapless reader. A Cortex-M4 is measured where qemu-system-arm is installed.
micro:
	rustup target add thumbv7em-none-eabi
	cargo test --no-default-features --features std --test no_std -- --nocapture

# After a change of the spec and its reference; the tests compare what is checked in with what this writes.
vectors:
	$(PYTHON) -B spec/vectors.py

# Every target for so many SECONDS; needs cargo-fuzz and a nightly compiler, or a stable one made to
# obey: make fuzz CARGO_FUZZ="env RUSTC_BOOTSTRAP=1 cargo fuzz". What it learns stays in target/fuzz.
fuzz:
	for target in $(FUZZ); do \
		mkdir -p target/fuzz/corpus/$$target && \
		$(CARGO_FUZZ) run --sanitizer $(SANITIZER) --target-dir target/fuzz $$target \
			target/fuzz/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=20 -max_len=2048 -print_final_stats=1 \
			$$(ls fuzz/$$target.dict 2>/dev/null | sed s/^/-dict=/) || exit 1; \
	done

# The smallest part of what was learnt that runs the same code, to be committed.
fuzz-corpus:
	for target in $(FUZZ); do \
		mkdir -p target/fuzz/corpus/$$target fuzz/corpus/$$target && \
		cp fuzz/corpus/$$target/* target/fuzz/corpus/$$target/; \
		rm -rf target/fuzz/least/$$target && mkdir -p target/fuzz/least && \
		cp -r target/fuzz/corpus/$$target target/fuzz/least/ && \
		$(CARGO_FUZZ) cmin --sanitizer $(SANITIZER) --target-dir target/fuzz $$target \
			target/fuzz/least/$$target -- -max_len=2048 -use_counters=0 && \
		rm -r fuzz/corpus/$$target && cp -r target/fuzz/least/$$target fuzz/corpus/ || exit 1; \
	done

# Changes one operator or result at a time and asks whether any test notices; needs cargo-mutants.
# .cargo/mutants.toml says where, with which tests, and which changes change nothing.
mutants:
	cargo mutants --output target/mutants --minimum-test-timeout 60 $(MUTANTS)

bench: setup
	cargo bench

# A merge beside cp, on models of 2 GB made in target/merge-cost, 6 GB while it runs.
merge-cost:
	cargo build --release --no-default-features --features std --example merge_cost
	target/release/examples/merge_cost target/merge-cost 24 9 2

# What a graft of all modules adds to a token: on the fixture, and on 8 layers of the width of a 0.5B
# model, which takes torch and optimum-onnx to make.
graft-cost: build setup
	$(PYTHON) -m venv target/graft-cost-venv
	target/graft-cost-venv/bin/python -m pip install --quiet --disable-pip-version-check -r fixtures/make/requirements.txt
	target/graft-cost-venv/bin/python benches/qwen_shaped.py --layers 8 --out target/graft-cost/large
	mkdir -p target/graft-cost/fixture && cp fixtures/wordmath/* target/graft-cost/fixture/
	for model in fixture large; do \
		target/release/tla pack benches/graft_cost.json --model target/graft-cost/$$model -o target/graft-cost/$$model.tla && \
		target/release/tla graft target/graft-cost/$$model/model.onnx target/graft-cost/$$model.tla \
			-o target/graft-cost/$$model/grafted.onnx && \
		$(VENV)/bin/python benches/graft_cost.py target/graft-cost/$$model/model.onnx \
			target/graft-cost/$$model/grafted.onnx --tokens 500 || exit 1; \
	done

# Beside torch and openssl in one run. Downloads torch.
peers:
	cargo build --release --example spec_speed
	$(PYTHON) -m venv target/peers
	target/peers/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
	target/peers/bin/python benches/peers/spec_speed.py --program target/release/examples/spec_speed

# TRL, PEFT and transformers, and onnxruntime-genai apart from them: gigabytes, torch's CUDA libraries included.
peers-trl: setup build
	$(PYTHON) -m venv target/peers-trl
	target/peers-trl/bin/python -m pip install --quiet --disable-pip-version-check -r benches/peers/requirements-trl.txt

# A step of training beside TRL with PEFT's TinyLoRA, on the fixture: make peers-grpo PEERS="--rounds 6"
peers-grpo: peers-trl
	target/peers-trl/bin/python benches/peers/grpo_step.py --tla target/release/tla --run target/peers-grpo $(PEERS)

# The same on a model of Qwen2.5-0.5B's shape with random weights, 6 GB on disk.
HALF := target/peers-half
peers-half: peers-trl
	test -e $(HALF)/model/model.onnx || target/peers-trl/bin/python benches/peers/make_half_billion.py $(HALF)/model
	target/peers-trl/bin/python benches/peers/answerable.py $(HALF)/model $(HALF)/answerable
	target/peers-trl/bin/python benches/peers/grpo_step.py --tla target/release/tla --run $(HALF)/run \
		--model $(HALF)/answerable --checkpoint $(HALF)/answerable/checkpoint --data $(HALF)/answerable/train.jsonl \
		--problems 2 --samples 4 --max-tokens 24 --rate 0.001 --rounds 3 --steps 4 $(PEERS)

# Sampling beside onnxruntime-genai and transformers, on the fixture.
peers-rollouts: peers-trl
	cargo build --release --example rollout_speed
	$(PYTHON) -m venv target/peers-genai
	target/peers-genai/bin/python -m pip install --quiet --disable-pip-version-check \
		-r benches/peers/requirements-genai.txt
	target/peers-trl/bin/python benches/peers/rollouts.py --program target/release/examples/rollout_speed \
		--genai-python target/peers-genai/bin/python --run target/peers-rollouts $(PEERS)

# Reinforcement learning of every weight, by TRL: an hour. Goes on where it was stopped.
peers-full: peers-trl
	target/peers-trl/bin/python benches/peers/full_rl.py --run target/peers-full $(PEERS)

# RL beside SFT by the number of numbers, placement and tying: 130 runs, half an hour; goes on where it was
# stopped: make contrast CONTRAST="--minutes 60"
contrast: setup build
	$(VENV)/bin/python benches/contrast.py --tla target/release/tla --run target/contrast \
		--plot docs/contrast.svg $(CONTRAST)

# An adapter on bases of 8 and 4 bits: grafted, merged, refitted. Downloads onnx.
quantised: setup build
	$(PYTHON) -m venv target/quantised-venv
	target/quantised-venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt onnx onnx-ir
	target/quantised-venv/bin/python benches/quantised.py --tla target/release/tla --run target/quantised

# pack, verify and merge on a trained BERT. Downloads 84 MB.
real: build
	$(PYTHON) benches/real_checkpoint.py --tla target/release/tla --run target/real

# Real clients run what tla makes: PEFT, onnxruntime-genai, transformers.js in Node and in Chromium, Chromium with the
# report of a run, TensorBoard. Each is downloaded to target/clients, gigabytes in all, or skipped if it cannot be had.
# Some of them:
# make clients CLIENTS="genai browser"
clients: setup build
	$(PYTHON) -B tests/clients/run.py --tla target/release/tla $(CLIENTS)

# tests/cuda/kernels.txt from onnxruntime-gpu, of which 260 MB are downloaded. Needs gcc and no GPU.
cuda-kernels:
	$(PYTHON) -m venv target/cuda-kernels
	target/cuda-kernels/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime-gpu==1.31.1
	target/cuda-kernels/bin/python tools/cuda-kernels/kernels.py tests/cuda/kernels.txt

# Slow to build, and only of use after a change of the schema.
proto-check:
	cargo run --package onnx-proto -- --check
