# `make demo` and `make test` are the two to know; `make help` lists all.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STACK ?= dev
OUT ?= build/rendered/$(STACK)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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

.PHONY: help setup lock
