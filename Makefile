# Penstock's commands. `make demo` and `make test` need nothing but python3 (3.11 or newer) and make: they do all set-up.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ROUNDS := 10
SIDE_BY_SIDE := -n auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help demo demo-vm test setup lint bench bench-flows bench-churn bench-peers test-nojit fuzz soak soak-vm clean packages controllers

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: setup ## hosts and virtual machines on two VLANs: reachability, throughput, and each process killed in mid-traffic
	$(PY) -m penstock.demo $(ARGS)

demo-vm: packages setup ## two virtual machines and a host: reachability, offloads, and the engine killed in mid-traffic
	$(PY) -m penstock.demo --vm $(ARGS)

setup: $(STAMP) ## everything into .venv, and the compile cache warmed: .venv/bin/penstock runs afterwards
	@$(VENV)/bin/penstock compile

$(STAMP): pyproject.toml
	@PYTHON=$(PYTHON) sh tools/make-venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# os-ken's REST applications, which tests drive, in an environment of their own.
controllers: $(VENV)/controllers/.installed

$(VENV)/controllers/.installed: tests/system/controllers/requirements.txt | $(STAMP)
	@PYTHON=$(PYTHON) sh tools/make-venv $(VENV)/controllers
	$(VENV)/controllers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

packages:
	@sh tools/debian-packages

test: packages controllers lint ## every test and the linters, Debian packages that tests need included
	$(PY) -m pytest $(SIDE_BY_SIDE) --dist loadscope tests/unit tests/kernel tests/engine
	$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone" tests/system
	$(PY) -m pytest -m alone tests/system

lint: setup ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-nojit: setup ## the kernel tests with kernels as plain Python, for pdb and coverage
	NUMBA_DISABLE_JIT=1 $(PY) -m pytest tests/kernel $(ARGS)

fuzz: setup ## random, truncated and lying frames, guests and front ends, afresh ROUNDS=10 times
	@for round in $$(seq $(ROUNDS)); do $(PY) -m pytest --quiet tests/kernel/test_packet_*.py tests/kernel/test_vhost_user_*.py tests/engine/test_tunnels.py $(ARGS) || exit 1; done

soak: packages setup ## virtio guests, engine and switch killed under each other, 10 to 20 times each
	PENSTOCK_SOAK=1 $(PY) -m pytest tests/system/test_vhost_restarts.py --timeout 600 $(ARGS)

soak-vm: packages setup ## virtual machines killed, migrated and their switch killed, again and again: ROUNDS=10 of each
	ROUNDS=$(ROUNDS) $(PY) -m pytest tests/system/soak_vm.py --timeout 1200 $(ARGS)

bench: setup ## busy cycles per packet, dummy port to dummy port
	$(PY) -m bench $(ARGS)

bench-flows: setup ## busy cycles per packet through flow tables of a thousand and of a million entries
	$(PY) -m bench.flows $(ARGS)

bench-churn: setup ## what changes of flow tables cost traffic: cycles per packet, loss, the worker's longest turn
	$(PY) -m bench.churn $(ARGS)

bench-peers: packages setup ## beside other switches: virtio guests through Open vSwitch with DPDK, TCP through its TAPs and a Linux bridge
	$(PY) -m bench.peers $(ARGS)

clean: ## remove what setup and the tests made (the compile cache stays in ~/.cache/penstock)
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
