# The front door. Every target makes what it needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

SEEDS ?= 20000

.PHONY: help install tools virtual-machines demo demo-vms test check sbom bench chaos chaos-vms simulate lock

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

tools:
	@bash .ci/tools "$(PYTHON)"

$(VENV)/ready: requirements-dev.lock pyproject.toml | tools
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@# An old one that Python 3.11 brings along, with known vulnerabilities; nothing needs it.
	@$(BIN)/python -m pip uninstall --quiet --yes setuptools 2>/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

install: $(VENV)/ready ## make the virtual environment from the hashed lock file

demo: $(VENV)/ready ## the whole job on a local Apache Kafka; ARGS=--keep leaves it up
	@$(BIN)/failover-orch demo $(ARGS)

demo-vms: $(VENV)/ready ## real VMs on libvirt nodes of this machine, as root on Debian; ARGS=--keep leaves them up
	@$(BIN)/failover-orch demo-vms $(ARGS)

test: $(VENV)/ready virtual-machines ## every test, on Apache Kafka and (as root on Debian) libvirt nodes that the tests start
	@$(BIN)/python -m pytest $(ARGS)

# What real VMs need of the machine: Debian packages, an account, Python's libvirt, a guest to boot.
virtual-machines: $(VENV)/ready
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(BIN)/python -m failover_orch.lab --install; \
	elif [ -n "$$CI" ]; then echo "real VMs need root on Debian" >&2; exit 1; \
	else echo "left out: tests on real VMs, which need root on Debian" >&2; fi

check: $(VENV)/ready ## formatting, lint, types; locks, licences, known vulnerabilities
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/mypy
	@PYTHONPATH=tests $(BIN)/python -m supply_chain

sbom: $(VENV)/ready ## the bill of materials as CycloneDX JSON, in build/sbom.cdx.json
	@mkdir -p build
	@PYTHONPATH=tests $(BIN)/python -m supply_chain --bill build/sbom.cdx.json

chaos: $(VENV)/ready ## moves, plans and single steps while everything is killed and paused; ARGS="--seed 7" repeats one
	@$(BIN)/python tests/streams/chaos.py $(ARGS)
	@$(BIN)/python tests/streams/chaos.py --brokers 3 --broker-kills 3 $(ARGS)
	@$(BIN)/python tests/streams/plan_chaos.py $(ARGS)
	@$(BIN)/python tests/streams/test_step_kills.py
	@$(BIN)/python tests/streams/test_kafka_away.py --how kill
	@$(BIN)/python tests/streams/test_kafka_away.py --how pause
	@$(BIN)/python tests/service/test_lookups_under_fire.py $(ARGS)

chaos-vms: $(VENV)/ready virtual-machines ## real VMs while links are cut and everything is killed, as root; ARGS="--seed 7" repeats one
	@$(BIN)/python tests/end_to_end/vms/test_vm_failovers.py $(ARGS)
	@$(BIN)/python tests/end_to_end/vms/test_link_cut.py $(ARGS)
	@$(BIN)/python tests/end_to_end/vms/test_split_brain.py $(ARGS)
	@$(BIN)/python tests/end_to_end/vms/test_kill_anything.py $(ARGS)

simulate: $(VENV)/ready ## the whole control plane on a simulated log, under SEEDS=20000 schedules of crashes and delays
	@PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(SEEDS)

bench: $(VENV)/ready ## a short benchmark: medians of three runs; ARGS="restore --scale 1" for one part in full size
	@$(BIN)/python -m benchmarks $(ARGS)

lock: ## pin and hash the dependencies anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
		pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --group dev \
		--constraint requirements.lock pyproject.toml -o requirements-dev.lock
