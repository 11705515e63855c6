# Every check and every demo by one name. `make help` lists them.

SHELL := /bin/bash
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
PYTHON := target/venv/bin/python
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  make test ONLY='cargo kill' runs only those phases; tests/run.sh --list names them all"

demo: ## send 1,797 handwritten digits through three actors and print what came of it
	@tests/env/install.sh demo
	@cargo build --quiet --release -p asya-cli
	@examples/digits/demo.sh

test: ## all tests, with real brokers (installs what is missing)
	@tests/run.sh $(or $(ONLY),test)

lint: ## formatting, clippy, dependencies, documentation, Python types
	@tests/run.sh lint

fmt: ## format the sources
	@cargo fmt --all

simulate: ## the deterministic simulation, then its planted bugs: SEED=n [MESSAGE=id] [BUG=name] replays one seed, SEEDS=n runs that many
	@tests/env/install.sh test
	@$(PYTHON) tests/planted/run.py $(if $(SEED),--seed $(SEED)) $(if $(MESSAGE),--message $(MESSAGE)) $(if $(BUG),--bug $(BUG)) $(if $(SEEDS),--seeds $(SEEDS))

kill: ## the kill suite: messages through three actors while each stage of a sidecar is hit by SIGKILL
	@tests/run.sh kill

bench-hop: ## a full hop beside a raw forwarder, interleaved: target/bench/hop.json and docs/perf/hop.md
	@tests/env/install.sh test
	@bench/hop.sh $(if $(ROUNDS),--rounds $(ROUNDS))

chaos: ## everything is broken under load, on real brokers: MINUTES=n [SEED=s] [TRANSPORTS="rabbitmq sqs embedded"]; one JSON line each
	@SEED=$(SEED) TRANSPORTS="$(or $(TRANSPORTS),rabbitmq sqs embedded)" tests/chaos/run.sh --minutes $(or $(MINUTES),2) $(if $(ACTORS),--actors $(ACTORS))

fuzz: ## every fuzz target for its share of MINUTES=n (4) [ONLY="target…"]
	@MINUTES=$(or $(MINUTES),4) ONLY="$(ONLY)" tests/fuzz/run.sh

.PHONY: help demo test lint fmt simulate kill bench-hop chaos fuzz
