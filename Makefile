# Needs python3 (3.11 or newer) and make; everything else goes into .venv. CUDA users: `pip install .` without constraints.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: quickstart test check bench gpu robust sweep builtin clean

quickstart: .venv/ready
	@run=runs/quickstart-$$(date +%Y%m%d-%H%M%S) && set -x && \
	$(BIN)/reflora train quickstart --output $$run && \
	$(BIN)/reflora eval $$run && \
	$(BIN)/reflora merge $$run && \
	$(BIN)/reflora export $$run --format peft

test: .venv/ready
	$(BIN)/python -m pytest -n 2

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python -m tests.benchmarks.suite --date $$(date +%F)

# In an environment of your own with a CUDA build of PyTorch, the package's dependencies, pytest-xdist and peft.
gpu:
	$(PYTHON) -m tests.gpu --date $$(date +%F)

robust: .venv/ready
	$(BIN)/python -m tests.robustness.kills --runs 100
	$(BIN)/python -m tests.robustness.pairs --runs 30
	$(BIN)/python -m tests.robustness.writes --stops 10
	$(BIN)/python -m tests.robustness.faults
	$(BIN)/python -m tests.robustness.flips
	$(BIN)/python -m tests.robustness.fuzz
	$(BIN)/python -m tests.robustness.soak

sweep: .venv/ready
	$(BIN)/python -W ignore -m tests.robustness.sweep

builtin: .venv/ready
	$(BIN)/python -m reflora_cli.builtin.pretrain

clean:
	rm -rf .venv

.venv/ready: pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint .constraints.txt --editable '.[dev]'
	touch $@
