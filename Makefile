# `make demo` and `make test` are the two to know; `make help` lists all.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STACK ?= dev
OUT ?= build/rendered/$(STACK)
BASE ?= origin/main
PULL_REQUEST := build/pull-request
PROMTOOL = build/prometheus/usr/bin/promtool

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
	.venv/bin/python -m dev.reference --check

unit: setup ## model and components, against mocks; seconds, as any user
	.venv/bin/pytest -n auto --dist worksteal tests/unit

golden: setup packages $(PROMTOOL) ## rendered files, read by the real HAProxy and keepalived; seconds, as any user
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest -n auto tests/golden

# Most of it waits, so files run at the same time; the storm needs the processors to itself.
dataplane: setup bench-packages ## real keepalived and HAProxy in network namespaces, with faults (root, 3 minutes)
	.venv/bin/pytest -n 3 --dist loadfile --durations 9 --ignore tests/dataplane/test_storm.py tests/dataplane
	.venv/bin/pytest tests/dataplane/test_storm.py

toolchain-test: setup toolchain ## the plugins that are built here
	toolchain/test
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest tests/toolchain

e2e: setup toolchain lab-up $(PROMTOOL) e2e-packages ## a real `pulumi up` on the lab, faults and all (root, about 50 minutes)
	.venv/bin/pytest -s tests/e2e

test: lint unit golden dataplane toolchain-test e2e ## everything

# $(call debian,COMMANDS,PACKAGES): where a command is missing, root gets the packages installed and others are told.
debian = @missing=; for command in $(1); do command -v $$command >/dev/null || missing=1; done; [ -z "$$missing" ] || { \
    [ "$$(id -u)" = 0 ] || { echo "missing: apt-get install $(2)"; exit 1; }; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; }

packages: ## Debian's packages that the golden tests run
	$(call debian,haproxy ip keepalived,haproxy iproute2 keepalived)

bench-packages: packages
	$(call debian,curl ip logger nc nft nsenter setpriv socat,bsdutils curl iproute2 netcat-openbsd nftables socat util-linux)

e2e-packages: ## what the lab's tests ask ARP with, and the browser that they open a drill's report in
	$(call debian,arping chromium,chromium iputils-arping)

# Debian's Prometheus, which tests run: unpacked and not installed, so that no service of it starts anywhere.
$(PROMTOOL):
	@rm -rf build/prometheus build/prometheus.new && mkdir -p build/prometheus.new
	@cd build/prometheus.new && download() { apt-get download -qq -o APT::Sandbox::User=root prometheus; } && { download || \
	    { [ "$$(id -u)" = 0 ] && apt-get update -qq && download; } || { echo "prometheus cannot be had: apt-get update, as root"; exit 1; }; }
	@dpkg -x build/prometheus.new/*.deb build/prometheus.new && rm build/prometheus.new/*.deb && mv build/prometheus.new build/prometheus

# ---- the program -----------------------------------------------------------------------------------------------------------
render: setup ## write the files that would land on each host: STACK=dev OUT=folder
	@.venv/bin/python -m dev.review.render $(STACK) $(OUT)

status: setup ## are the load balancers as they were applied, and whole? STACK=dev
	@./ha status --stack $(STACK)

preview: setup toolchain ## what `pulumi up` would change, for a pull request and its guard rails: STACK=dev
	@mkdir -p $(PULL_REQUEST) && rm -f $(PULL_REQUEST)/resources.diff
	@# A preview that fails is told by the comment and by `make guard`.
	@toolchain/pulumi preview --stack $(STACK) --non-interactive --json --show-sames >$(PULL_REQUEST)/preview.json || true
	@toolchain/pulumi preview --stack $(STACK) --non-interactive --color never --diff >$(PULL_REQUEST)/preview.txt 2>&1 || true

preview-against-mocks: setup ## the same for whoever has no credentials, as the difference to BASE: STACK=dev BASE=origin/main
	@rm -f $(PULL_REQUEST)/preview.*
	@.venv/bin/python -m dev.review.compare dev.review.resources $(STACK) $(BASE) $(PULL_REQUEST)/resources.diff

render-diff: setup ## how the files on the hosts differ from those of BASE: STACK=dev BASE=origin/main
	@.venv/bin/python -m dev.review.compare dev.review.render $(STACK) $(BASE) $(PULL_REQUEST)/files.diff

guard: setup ## stop what `make preview` found and nobody should do in passing: ALLOW="vip ..."
	@./ha guard $(PULL_REQUEST)/preview.json $(ALLOW:%=--allow %)

pull-request-comment: setup ## a comment, and a longer summary, of what the targets above found: ALLOW="vip ..."
	@.venv/bin/python -m dev.review.pull_request $(STACK) $(PULL_REQUEST) $(ALLOW:%=--allow %)

reapply: setup ## have `pulumi up` write the files again that status finds changed: STACK=dev
	@./ha status --reapply --stack $(STACK)

monitoring: OUT = build/monitoring/$(STACK)
monitoring: setup ## Prometheus targets, alert rules and a Grafana dashboard: STACK=dev OUT=folder
	@./ha monitoring --stack $(STACK) --output $(OUT)

readme-table: setup ## make the README's table of the configuration from Pulumi.yaml
	.venv/bin/python -m dev.reference --write

toolchain: ## Pulumi's CLI and plugins, from PATH, the vendor, or built here
	@toolchain/install

bench: setup bench-packages ## what faults cost clients (root): QUICK=1, ONLY="fault ...", CONFIGURATION="name ...", REPEATS=3
	@.venv/bin/python -m dev.bench $(if $(QUICK),--quick) $(ONLY:%=--only %) $(CONFIGURATION:%=--configuration %) \
	    $(REPEATS:%=--repeats %)

bench-timers: setup bench-packages ## how fast advertisements may be, measured (root, 20 minutes): REPEATS=3
	@.venv/bin/python -m dev.bench --timers --out build/bench-timers $(REPEATS:%=--repeats %)

bench-storm: setup bench-packages ## 5,000 connections that arrive at once (root, half a minute)
	@.venv/bin/python -m dev.bench.storm

bench-report: setup ## put what both benches found into docs/failover.md, with pictures
	@.venv/bin/python -m dev.bench.report build/bench/results.json
	@[ ! -e build/bench-timers/results.json ] || .venv/bin/python -m dev.bench.curves build/bench-timers/results.json

demo: setup toolchain ## a real OpenStack on this machine, the system on it, a failover shown (root)
	@.venv/bin/python -m dev.demo

# ---- the lab ---------------------------------------------------------------------------------------------------------------
lab-up: setup ## start a real OpenStack in a container on this machine (root)
	@.venv/bin/python -m dev.lab up

lab-down: setup ## stop it; instances and data are kept
	@.venv/bin/python -m dev.lab down

lab-status: setup ## how it is, and how to use it
	@.venv/bin/python -m dev.lab status

lab-purge: setup ## stop it and forget all of it
	@.venv/bin/python -m dev.lab purge

clean-cache: setup ## forget what was built: root file system, image, toolchain
	@.venv/bin/python -m dev.lab clean-cache
	@toolchain/clean

.PHONY: help setup lock lint unit golden dataplane toolchain-test e2e test packages bench-packages e2e-packages render \
	preview preview-against-mocks render-diff guard pull-request-comment status reapply monitoring readme-table toolchain \
	bench bench-report demo lab-up lab-down lab-status lab-purge clean-cache
