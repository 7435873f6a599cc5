# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
PORT ?= 8000
PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(DEVICE)

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-unit test-browser test-live lint format bench rehearse docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with pinned packages (a machine with GPUs: make setup DEVICE=gpu)

$(STAMP): requirements/$(DEVICE).txt requirements/dev.txt
	@scripts/setup.sh $(PYTHON) $(VENV) $(DEVICE)
	@touch $@

serve: setup ## Serve the demo model on PORT (default 8000); FLAGS= adds serve.py's flags
	@$(BIN)/python serve.py --port $(PORT) $(FLAGS)

test: setup ## Every test: fast ones first, then pages in Chromium, then live ones with the real engine
	$(BIN)/python -m pytest tests/unit
	$(BIN)/python -m pytest tests/browser
	$(BIN)/python -m pytest tests/live -m "live and not rehearsal"

test-unit: setup ## Fast tests only
	$(BIN)/python -m pytest tests/unit

test-browser: setup ## The load test's pages in Chromium only (Debian: chromium, chromium-driver)
	$(BIN)/python -m pytest tests/browser

test-live: setup ## Tests with the real engine only
	$(BIN)/python -m pytest tests/live -m "live and not rehearsal"

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure against bare vLLM and transformers, and the load test against other generators; writes results/
	$(BIN)/python -m tests.bench
	$(BIN)/python -m loadtest selftest
	$(BIN)/python -m tests.bench loadtest

rehearse: setup ## Rehearse the full-size Mistral 7B with random weights (19 GB of memory, several minutes)
	$(BIN)/python -m pytest tests/live -m rehearsal

docs: setup ## Generate the reference pages
	$(BIN)/python -m deploy.reference
	$(BIN)/python -m loadtest._reference
	$(BIN)/python -m loadtest._flag_reference
	scripts/licences.sh

lock: ## Resolve requirements/*.in into pinned sets
	scripts/lock.sh

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache results
