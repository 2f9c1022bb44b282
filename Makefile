# `make demo` and `make test` are the two to know; `make help` lists all.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STACK ?= dev
OUT ?= build/rendered/$(STACK)

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- setup -------------------------------------------------------------------------------------------------------------
setup: .venv/.installed ## Python environment with everything the project uses

# Debian keeps venv in a package of its own; where it is missing, root gets it installed and others are told.
.venv/.installed: requirements.txt requirements-dev.txt
	@python3 -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; }
	@[ -x $(PY) ] || python3 -m venv .venv
	@echo "installing the Python packages (about 60 s)"
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

lock: ## compile the requirements files anew from their .in files
	$(PY) -m pip install -q uv==0.13.9
	for f in requirements requirements-dev; do .venv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --universal \
	    --python-version 3.11 --custom-compile-command 'make lock' $$f.in -o $$f.txt || exit 1; done

# ---- checks and tests ----------------------------------------------------------------------------------------------------
lint: setup ## formatting, lint, types, directions of imports
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/python -m tools.config_table --check

unit: setup ## model and components, against mocks; seconds, as any user
	.venv/bin/pytest -n auto tests/unit

golden: setup packages ## rendered files, read by the real HAProxy and keepalived; seconds, as any user
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest -n auto tests/golden

dataplane: setup bench-packages ## real keepalived and HAProxy in network namespaces, faults and all (root, 5 minutes)
	.venv/bin/pytest tests/dataplane

toolchain-test: setup toolchain ## the plugins that are built here
	toolchain/test
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest tests/toolchain

e2e: setup toolchain lab-up ## a real `pulumi up` on the lab, faults and all (root, about 15 minutes)
	.venv/bin/pytest -s tests/e2e

test: lint unit golden dataplane toolchain-test e2e ## everything

packages: ## Debian's packages that the golden tests run
	@command -v haproxy >/dev/null && command -v keepalived >/dev/null || { \
	    [ "$$(id -u)" = 0 ] || { echo "haproxy and keepalived are missing: apt-get install haproxy keepalived"; exit 1; }; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends haproxy keepalived iproute2 >/dev/null; }

bench-packages: packages
	@for command in curl ip logger nc nft nsenter setpriv socat; do command -v $$command >/dev/null || missing=1; done; [ -z "$$missing" ] || { \
	    [ "$$(id -u)" = 0 ] || { echo "missing: apt-get install bsdutils curl iproute2 netcat-openbsd nftables socat util-linux"; exit 1; }; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    bsdutils curl iproute2 netcat-openbsd nftables socat util-linux >/dev/null; }

# ---- the program -----------------------------------------------------------------------------------------------------------
render: setup ## write the files that would land on each host: STACK=dev OUT=folder
	@.venv/bin/python -m tools.render $(STACK) $(OUT)

status: setup ## are the load balancers as they were applied, and whole? STACK=dev
	@.venv/bin/python -m tools.status $(STACK)

reapply: setup ## have `pulumi up` write the files again that status finds changed: STACK=dev
	@.venv/bin/python -m tools.status --reapply $(STACK)

readme-table: setup ## make the README's table of the configuration from Pulumi.yaml
	.venv/bin/python -m tools.config_table --write

toolchain: ## Pulumi's CLI and plugins, from PATH, the vendor, or built here
	@toolchain/install

bench: setup bench-packages ## what faults cost clients (root): QUICK=1, ONLY="fault ...", CONFIGURATION="name ...", REPEATS=3
	@.venv/bin/python -m bench $(if $(QUICK),--quick) $(ONLY:%=--only %) $(CONFIGURATION:%=--configuration %) \
	    $(REPEATS:%=--repeats %)

bench-timers: setup bench-packages ## how fast advertisements may be, measured (root, 20 minutes): REPEATS=3
	@.venv/bin/python -m bench --timers --out build/bench-timers $(REPEATS:%=--repeats %)

bench-storm: setup bench-packages ## 5,000 connections that arrive at once (root, half a minute)
	@.venv/bin/python -m bench.storm

bench-report: setup ## put what both benches found into docs/failover.md, with pictures
	@.venv/bin/python -m bench.report build/bench/results.json
	@[ ! -e build/bench-timers/results.json ] || .venv/bin/python -m bench.curves build/bench-timers/results.json

demo: setup toolchain ## a real OpenStack on this machine, the system on it, a failover shown (root)
	@.venv/bin/python -m demo

# ---- the lab ---------------------------------------------------------------------------------------------------------------
lab-up: setup ## start a real OpenStack in a container on this machine (root)
	@.venv/bin/python -m lab up

lab-down: setup ## stop it; instances and data are kept
	@.venv/bin/python -m lab down

lab-status: setup ## how it is, and how to use it
	@.venv/bin/python -m lab status

lab-purge: setup ## stop it and forget all of it
	@.venv/bin/python -m lab purge

clean-cache: setup ## forget what was built: root file system, image, toolchain
	@.venv/bin/python -m lab clean-cache
	@toolchain/clean

.PHONY: help setup lock lint unit golden dataplane toolchain-test e2e test packages bench-packages render status reapply readme-table toolchain \
	bench bench-report demo lab-up lab-down lab-status lab-purge clean-cache
