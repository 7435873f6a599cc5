# Every target sets up what it needs. `make help` lists them.
SHELL := /bin/bash
PORT ?= 8000
PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= localhost/mistral-serve:$(VERSION)-cpu
# Most tests without an engine wait for something: two processes of pytest take 60 % of the time that one takes.
TWO_AT_A_TIME := --numprocesses 2 --dist worksteal
STAMP := $(VENV)/.installed-$(DEVICE)

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-unit test-chart test-browser test-live lint format bench rehearse image k8s-demo docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with pinned packages (a machine with GPUs: make setup DEVICE=gpu)

$(STAMP): requirements/$(DEVICE).txt requirements/dev.txt
	@scripts/setup.sh $(PYTHON) $(VENV) $(DEVICE)
	@touch $@

serve: setup ## Serve the demo model on PORT (default 8000); FLAGS= adds serve.py's flags
	@$(BIN)/python serve.py --port $(PORT) $(FLAGS)

test: setup ## Every test: first those that need no server of ours, then live ones with the real engine
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) tests/unit tests/libraries tests/chart tests/browser
	$(BIN)/python -m pytest tests/live -m "live and not rehearsal"

test-unit: setup ## Fast tests only
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) tests/unit

test-browser: setup ## The load test's pages in Chromium only (Debian: chromium, chromium-driver)
	$(BIN)/python -m pytest tests/browser

test-chart: setup ## Tests of the chart; on a real API server too where KUBECONFIG names one with KubeRay's operator
	$(BIN)/python -m pytest tests/chart

test-live: setup ## Tests with the real engine only
	$(BIN)/python -m pytest tests/live -m "live and not rehearsal"

lint: setup ## ruff, mypy --strict, hadolint and helm lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile.*
	$(BIN)/python -m pytest -q tests/chart/test_profiles.py -k helm_lint

format: setup ## Let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure against bare vLLM, transformers and other load generators, the gateway's cost, overload; writes results/
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench gateway
	$(BIN)/python -m tests.bench overload
	$(BIN)/python -m loadtest selftest
	$(BIN)/python -m tests.bench loadtest

rehearse: setup ## Rehearse the full-size Mistral 7B with random weights (19 GB of memory, several minutes)
	$(BIN)/python -m pytest tests/live -m rehearsal

image: setup ## Build the CPU image with buildah (root); BASE= builds on another image than a Debian made here
	@BASE=$(BASE) scripts/image.sh $(BIN)/python $(IMAGE) .image/mistral-serve-cpu.tar

k8s-demo: setup ## A release's whole life on the cluster of KUBECONFIG; CLUSTER= names a program that starts one meanwhile
	@$(BIN)/python -m scripts.k8s_demo --image $(IMAGE) --archive .image/mistral-serve-cpu.tar \
		$(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(EXEC),--exec "$(EXEC)")

docs: setup ## Generate the reference pages
	$(BIN)/python -m deploy.reference
	$(BIN)/python -m loadtest._reference
	$(BIN)/python -m loadtest._flag_reference
	scripts/licences.sh

lock: ## Resolve requirements/*.in into pinned sets
	scripts/lock.sh

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .image results
