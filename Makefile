# Two commands matter: `make demo` and `make test`. Each installs what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ARCH ?= $(shell dpkg --print-architecture)
export BASE

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/packages: ci/packages
	ci/packages
	mkdir -p .venv && touch $@

.venv/ready: .venv/packages pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: install
install: .venv/ready ## Install havip and its tools into .venv

.PHONY: root
root:
	@[ "$$(id -u)" -eq 0 ] || { echo "havip: this makes network namespaces: run it as root" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "havip: needs Python 3.11 or later: make PYTHON=python3.11 …" >&2; exit 1; }

.PHONY: demo
demo: root install ## Watch a virtual IP move between three hosts (as root)
	$(BIN)/havip demo $(DEMO_FLAGS)

# Those on packets mostly wait: three at a time keep two cores busy by 60 %.
.PHONY: test
test: root install ## Run every test but those of `make e2e` (as root)
	ci/tools/build helm3 helm4 ct
	$(BIN)/pytest --numprocesses=2 --ignore=tests/netns $(PYTEST_FLAGS)
	$(BIN)/pytest --numprocesses=3 tests/netns $(PYTEST_FLAGS)

.PHONY: tools
tools: ## Build the chart's tools from pinned Go modules into build/bin: kubectl, helm 3 and 4, …
	ci/tools/build

.venv/packages-image: ci/packages-image .venv/packages
	ci/packages-image
	mkdir -p .venv && touch $@

.PHONY: image
image: root .venv/packages-image ## Build the image into build/image (as root); ARCH=arm64, BASE=…
	ci/image/build $(ARCH) build/image

.venv/packages-e2e: ci/packages-e2e .venv/packages
	ci/packages-e2e
	mkdir -p .venv && touch $@

.venv/ready-e2e: .venv/ready .venv/packages-e2e requirements/e2e.txt requirements/ansible.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/e2e.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/ansible.txt
	touch $@

.PHONY: e2e
e2e: root .venv/ready-e2e .venv/packages-image tools ## Test the image, and the chart on a real API server (as root)
	ci/image/build amd64 build/image
	ci/image/build arm64 build/image
	$(BIN)/pytest tests/image $(PYTEST_FLAGS)
	$(BIN)/pytest tests/e2e -m "not kubernetes" $(PYTEST_FLAGS)

.PHONY: e2e-kubernetes
e2e-kubernetes: root .venv/ready-e2e .venv/packages-image tools ## Test what havip asks of a real API server, the guides and the role (as root)
	ci/image/build amd64 build/image
	$(BIN)/pytest tests/e2e -m kubernetes $(PYTEST_FLAGS)
	$(BIN)/pytest tests/ansible $(PYTEST_FLAGS)

.PHONY: lint
lint: install ## Style, types and the import rule
	$(BIN)/ruff format --check app tests ci ansible
	$(BIN)/ruff check app tests ci ansible
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: install ## Format the code
	$(BIN)/ruff format app tests ci ansible
	$(BIN)/ruff check --fix app tests ci ansible

.PHONY: bench
bench: root install ## Measure failover, handover, healing and size beside keepalived (as root)
	$(BIN)/python ci/bench.py $(BENCH_FLAGS)

PIN := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links

.PHONY: lock
lock: ## Pin the dependencies again, with hashes and without download addresses
	$(PIN) -o requirements/runtime.txt pyproject.toml
	$(PIN) --extra watch --group dev -c requirements/runtime.txt -o requirements/dev.txt pyproject.toml
	$(PIN) --group build -c requirements/dev.txt -o requirements/build.txt
	$(PIN) --group e2e -c requirements/dev.txt -o requirements/e2e.txt
	$(PIN) --group ansible -c requirements/dev.txt -o requirements/ansible.txt
	$(PIN) --group go -o requirements/go.txt

.PHONY: clean
clean: ## Remove what was installed and cached
	rm -rf build .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
