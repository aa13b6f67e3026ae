# Riffle's commands. `make` lists them. The rules need make, bash and Python 3.10-3.12, and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.9
PYTHON := .venv/bin/python
STAMP := .venv/.riffle-setup
LOG := .riffle/setup.log
# uv must not fetch an interpreter of its own: a machine without the right Python gets a sentence, not a download.
UV_ENV := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv

# Tried and not only looked up: a pyenv shim is on PATH even where its version is not installed.
define FIND_PYTHON
for name in python3.12 python3.11 python3.10 python3 python; do \
  found=$$("$$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13)); ' 2>/dev/null && \
           "$$name" -c 'import sys; print(sys.executable)' 2>/dev/null) && break || found=; \
done; \
if [ -z "$$found" ]; then \
  echo "No Python 3.10, 3.11 or 3.12 that runs is on PATH (found: $$(python3 --version 2>/dev/null || echo none)): install one, for example the package python3.12, and run make again." >&2; \
  exit 1; \
fi
endef

# uv from PATH, else one fetched by whichever of pip, venv and ensurepip this Python has (Debian splits them off).
define FIND_UV
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then uv=$$(command -v uv); \
elif [ -x .riffle/tools/bin/uv ]; then uv=$$PWD/.riffle/tools/bin/uv; \
else \
  echo "Fetching uv $(UV_VERSION), which makes the environment (once)."; \
  if "$$found" -m pip --version >/dev/null 2>&1; then \
    "$$found" -m pip install --quiet --disable-pip-version-check --target .riffle/tools "uv==$(UV_VERSION)" >>$(LOG) 2>&1 || :; \
  fi; \
  if ! [ -x .riffle/tools/bin/uv ]; then \
    rm -rf .riffle/tools; \
    { "$$found" -m venv .riffle/tools && .riffle/tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"; } >>$(LOG) 2>&1 || :; \
  fi; \
  if ! [ -x .riffle/tools/bin/uv ]; then \
    rm -rf .riffle/tools; \
    echo "uv cannot be fetched: check the network, or install pip or venv (packages python3-pip, python3-venv), or uv itself; $(LOG) has the reason." >&2; \
    exit 1; \
  fi; \
  uv=$$PWD/.riffle/tools/bin/uv; \
fi
endef

# $(1): the stamp, $(2): further arguments of `uv sync`.
define SYNC
mkdir -p .riffle; : > $(LOG); \
$(FIND_PYTHON); \
$(FIND_UV); \
if [ -x $(PYTHON) ] && $(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then python=$(PYTHON); else python=$$found; fi; \
echo "Preparing the environment in .venv (the first time takes minutes)."; \
if ! $(UV_ENV) "$$uv" sync --frozen --quiet --python "$$python" $(2) >>$(LOG) 2>&1; then \
  tail -n 3 $(LOG) >&2; \
  echo "The environment cannot be made: check the network and that a few GB of disk are free; all of it is in $(LOG)." >&2; \
  exit 1; \
fi; \
touch $(1)
endef

# From the command line only: bash gives every child that inherits SECONDS the age of the shell.
RUN_SECONDS := $(if $(findstring command,$(origin SECONDS)),$(SECONDS))

.PHONY: help setup run test check train bench audit stop clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml uv.lock
	@$(call SYNC,$@,)

# Holds what setup holds and torch; a later plain setup keeps torch, because its stamp is not older than the lock.
$(STAMP)-train: pyproject.toml uv.lock
	@$(call SYNC,$@,--extra train)
	@touch $(STAMP)

setup: $(STAMP) ## make the environment in .venv from the committed lock
	@:

run: setup ## start Kafka, Redis, Flink, the job and the demo shop; SECONDS=60 ends by itself
	@exec .venv/bin/riffle run $(if $(RUN_SECONDS),--seconds $(RUN_SECONDS))

test: setup ## run every test, end-to-end included
	@$(PYTHON) -m pytest tests

check: setup ## lint, types, unit and operator tests: what is quick
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest tests/unit tests/operator

train: $(STAMP)-train ## train the ranker and pack it as a bundle
	@$(PYTHON) -m models.train

bench: $(STAMP)-train ## measure all of docs/benchmarks.md anew and write it: about 2 hours
	@$(PYTHON) -m bench

# uv's audit is still a preview, and older ones have none. It sends names and versions of the lock to OSV, and exits with 1 for a finding.
audit: setup ## write .riffle/sbom.json, and look the lock's packages up among known vulnerabilities
	@mkdir -p .riffle; : > $(LOG); $(FIND_PYTHON); $(FIND_UV); \
	"$$uv" export --frozen --quiet --format cyclonedx1.5 --all-extras --no-emit-project | $(PYTHON) -m local.sbom > .riffle/sbom.json; \
	echo "Written: .riffle/sbom.json, the locked packages and the pinned jars."; \
	"$$uv" audit --frozen --preview-features audit-command $(if $(AUDIT_URL),--service-url $(AUDIT_URL)) >.riffle/audit.txt 2>&1 || { \
	  if grep -q "known vulnerabilit" .riffle/audit.txt; then cat .riffle/audit.txt >&2; \
	  else echo "The audit could not be made: $$(grep -v '^$$' .riffle/audit.txt | tail -n 1 | sed 's/^ *//'). It needs api.osv.dev (or AUDIT_URL) and uv $(UV_VERSION) or newer; all of it is in .riffle/audit.txt." >&2; fi; \
	  exit 1; }; \
	tail -n 1 .riffle/audit.txt

stop: ## stop whatever `make run` or `riffle up` started
	@if [ -x .venv/bin/riffle ]; then .venv/bin/riffle down; else echo "Nothing is up."; fi

clean: stop ## stop, and remove all data, logs and caches of this checkout (.venv stays)
	@rm -rf .riffle .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
