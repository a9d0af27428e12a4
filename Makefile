# Every target makes what it needs: a clean clone, Python 3.11+, make and a package index suffice.
# Another Python: `make test PYTHON=/path/to/python3.12`.

VENV := .venv
PY := $(VENV)/bin/python
# Stamps are younger than pyproject.toml when the environment holds what it asks for.
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev
BENCH := $(VENV)/.stamp-bench
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

# Tried in this order; the first that is new enough and can make an environment is used.
PYTHON ?= python3
PYTHONS := $(PYTHON) python3.14 python3.13 python3.12 python3.11
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
CAN_MAKE_VENV := import ensurepip, venv

# Programs that some tests run, each with its Debian package: ip cuts links.  RUNLEVEL=1 keeps
# apt from starting daemons; the tests start what they need.
PARTS := ip:iproute2 nginx:nginx-light dnsmasq:dnsmasq-base etcd:etcd-server curl:curl \
	openssl:openssl

ARGS ?=
SEED ?= 1
RUNS ?= 10000
JOBS ?= 2
# Of `make bench`: 1 installs the peers below build/peers and runs them, too.
PEERS ?=
TEST_JOBS ?= 3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-deps check sim chaos bench bench-deps bench-guard bench-enterprise \
	bench-shard soak clean

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z-]*:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RUNTIME) ## Audit a real source tree with a swarm on this machine (ARGS=…)
	$(VENV)/bin/swarm demo $(ARGS)

# Most tests wait for processes most of the time: more at once than there are cores.
test: $(DEV) ## Run the tests (ARGS=… goes to pytest), TEST_JOBS=3 files at once
	$(PY) -m pytest -n $(TEST_JOBS) --dist loadfile $(ARGS)

test-deps: ## Install what some tests need of the system (Debian, as root): see PARTS
	@missing=; for part in $(PARTS); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v $${part%%:*} >/dev/null || missing="$$missing $${part##*:}"; \
	done; test -z "$$missing" || { apt-get update -q && \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; }

check: $(DEV) ## Lint, format, types, compose file
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict
	$(VENV)/bin/docker-compose -f docker-compose.yml config -q

sim: $(RUNTIME) ## Simulate RUNS=10000 schedules from SEED=1 on JOBS=2 processes
	$(PY) -m swarm.testing.sim --seed $(SEED) --runs $(RUNS) --jobs $(JOBS) $(ARGS)

chaos: MINUTES ?= 30
chaos: $(RUNTIME) ## Faults on real processes for MINUTES=30 from SEED=1 (ARGS=…)
	$(PY) -m swarm.testing.chaos --seed $(SEED) --minutes $(MINUTES) $(ARGS)

bench: $(BENCH) ## Measure; PEERS=1: beside Celery, dramatiq, arq, taskiq, FastStream (ARGS=…)
	$(PY) -m bench $(if $(filter-out 0,$(PEERS)),--peers) $(ARGS)

bench-deps: ## Install what the peers need of the system (Debian, as root): redis-server
	@command -v redis-server >/dev/null || { apt-get update -q && \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends redis-server; }

bench-guard: $(RUNTIME) ## Fail if a ratio to the limit loop is over 20 % below the recorded one
	$(PY) -m bench.guard $(ARGS)

bench-enterprise: $(BENCH) ## 20 coordinators, 64 shards, 1,000 agents, 1,000,000 items (ARGS=…)
	$(PY) -m bench.enterprise $(ARGS)

bench-shard: $(BENCH) ## One shard with 1,000,000 items: memory, opening, compaction (ARGS=…)
	$(PY) -m bench.shard_life $(ARGS)

soak: MINUTES ?= 60
soak: $(BENCH) ## A steady load for MINUTES=60: are memory and latency flat? (ARGS=…)
	$(PY) -m bench.soak --minutes $(MINUTES) $(ARGS)

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find swarm tests bench -type d -name __pycache__ -prune -exec rm -rf {} +

# --- the environment ---

# Stamps say nothing about an environment whose Python is gone.
ifneq ($(shell test -x $(PY) && echo yes),yes)
.PHONY: $(RUNTIME)
endif

# Only reached when $(PY) is absent or points at a Python that is gone; hence --clear.
$(PY):
	@found=; \
	for candidate in $(PYTHONS); do \
		"$$candidate" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 || continue; \
		"$$candidate" -c '$(CAN_MAKE_VENV)' >/dev/null 2>&1 || continue; \
		found=$$candidate; break; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: no usable Python: need 3.11 or newer with the venv and ensurepip modules." >&2; \
		echo "      Tried: $(PYTHONS)" >&2; \
		echo "      '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)" >&2; \
		echo "      Install one (Debian: apt install python3-venv) or run: make … PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV)

$(RUNTIME): pyproject.toml | $(PY)
	@$(PY) -c '$(NEW_ENOUGH)' || { \
		echo "make: $(VENV) holds $$($(PY) --version), need 3.11 or newer; run: make clean" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade
	$(PIP_INSTALL) --editable .
	@touch $@

# Draws the plots; everything else of the benchmarks runs without.
$(BENCH): $(RUNTIME)
	$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

# After $(RUNTIME), so that `make -j demo test` never runs two installs into one environment.
$(DEV): $(RUNTIME)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
