# Everything a fresh machine needs beyond Rust, Python 3 and make is set up here.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := target/demo

.PHONY: build setup demo test test-native lint vectors bench proto-check

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

test: setup lint
	cargo build --no-default-features
	cargo test

lint:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings

# The same digests from a build for this CPU: no result may depend on the target.
test-native:
	RUSTFLAGS="-C target-cpu=native" CARGO_TARGET_DIR=target/native \
		cargo test --no-default-features --features std --test projection_laws

# After a change of the spec and its reference; the tests compare what is checked in with what this writes.
vectors:
	$(PYTHON) -B spec/vectors.py

bench: setup
	cargo bench

# Slow to build, and only of use after a change of the schema.
proto-check:
	cargo run --package onnx-proto -- --check
