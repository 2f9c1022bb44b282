# Start with `make demo` and `make test`; `make help` lists all targets. To operate a stack, use `./ha`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
STACK ?= dev
OUT ?= build/rendered/$(STACK)
BASE ?= origin/main
PULL_REQUEST := build/pull-request
PROMTOOL = build/prometheus/usr/bin/promtool
REGISTRY = build/docker-registry/usr/bin/docker-registry
DEBIAN_13 = build/debian-13/usr/sbin/haproxy

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

# ---- setup -------------------------------------------------------------------------------------------------------------
setup: .venv/.installed ## Python environment for development

.venv/.installed: requirements-dev.txt requirements-uv.txt
	$(call install,requirements-dev.txt,15 s)
	@touch .venv/.ha-installed $@

# What `./ha` needs, and no more.
.venv/.ha-installed: requirements-ha.txt requirements-uv.txt
	$(call install,requirements-ha.txt,10 s)
	@touch $@

# $(call install,FILE,EXPECTED). Debian has venv in a separate package: if it is missing, root installs it, other users get a hint.
# uv is several times faster than pip. It does not read pip's configuration, so it gets a mirror from there, and the system's CAs;
# where that is not enough (a proxy, a CA of pip's own), pip does it.
define install
@python3 -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; }
@[ -x $(PY) ] || python3 -m venv .venv
@echo "installing the Python packages (about $(2))"
@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
@index=$${PIP_INDEX_URL:-$$($(PY) -m pip config get global.index-url 2>/dev/null || true)}; \
    [ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
    .venv/bin/uv pip install -q --python $(PY) --system-certs --compile-bytecode --require-hashes -r $(1) || \
    { echo "uv could not install them; trying pip (about a minute)"; $(PY) -m pip install -q --disable-pip-version-check --require-hashes -r $(1); }
endef

lock: .venv/.ha-installed ## compile the requirements*.txt files from their .in files
	for f in requirements requirements-ha requirements-dev requirements-uv; do .venv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --universal \
	    --python-version 3.11 --custom-compile-command 'make lock' $$f.in -o $$f.txt || exit 1; done

# ---- checks and tests ----------------------------------------------------------------------------------------------------
lint: setup ## formatting, lint, types, import rules, generated documents
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/python -m dev.reference --check

# Every worker, and every command that a test starts, imports everything, which is faster as bytecode.
unit e2e e2e-extended: export PYTHONDONTWRITEBYTECODE =
# Some tests wait, so there are two workers more than processors.
unit: setup ## logic and components, against mocks; seconds, any user
	.venv/bin/pytest -n $$(($$(nproc) + 2)) --dist worksteal tests/unit

golden: setup packages $(PROMTOOL) $(DEBIAN_13) ## rendered files, checked by the real HAProxy and keepalived of two Debian releases; the bench's tables and pictures; any user
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest -n auto tests/golden

# Most of it waits, so four files run at the same time, the longest first; storm and flood need the processors to themselves.
dataplane: setup bench-packages ## real keepalived and HAProxy in network namespaces, with faults (root, 6 minutes)
	.venv/bin/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 9 --ignore tests/dataplane/test_storm.py \
	    --ignore tests/dataplane/test_flood.py tests/dataplane
	.venv/bin/pytest tests/dataplane/test_storm.py tests/dataplane/test_flood.py

toolchain-test: setup toolchain ## the Pulumi plugins in toolchain/
	toolchain/test
	PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/pytest -n auto --dist loadfile tests/toolchain

e2e: setup toolchain lab-up lab-debian-13 $(PROMTOOL) e2e-packages ## a real `pulumi up` on the lab, with faults (root, 40 minutes)
	@.venv/bin/python -m tests.e2e.stories

# `test` takes the shorter one, so that it ends within an hour.
e2e-extended: setup toolchain lab-up lab-debian-13 $(PROMTOOL) e2e-packages ## the same with longer stories: growth, rare interruptions (root, 100 minutes)
	@.venv/bin/python -m tests.e2e.stories --extended

kubernetes-test: lab-kubernetes bench-packages $(REGISTRY) ## Kubernetes as the lab builds it: its packages, images and programs, with our files (root)
	.venv/bin/pytest tests/kubernetes

# `lab-up` comes before what needs a part of its builds: by itself it builds everything at the same time.
test: lint unit golden dataplane toolchain-test lab-up kubernetes-test e2e ## all of the above

# $(call debian,COMMANDS,PACKAGES): if a command is missing, root installs the packages, other users get a hint.
debian = @missing=; for command in $(1); do command -v $$command >/dev/null || missing=1; done; [ -z "$$missing" ] || { \
    [ "$$(id -u)" = 0 ] || { echo "missing: apt-get install $(2)"; exit 1; }; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2) >/dev/null; }

packages: ## the Debian packages that the golden tests need
	$(call debian,haproxy ip keepalived mmdebstrap nft,debian-archive-keyring haproxy iproute2 keepalived mmdebstrap nftables)

bench-packages: packages
	$(call debian,curl ip logger nc nsenter setpriv socat,bsdutils curl iproute2 netcat-openbsd socat util-linux)

e2e-packages: ## arping, debugfs, and the browser in which the end-to-end tests open a drill's report
	$(call debian,arping chromium debugfs,chromium e2fsprogs iputils-arping)

# $(call unpack,PACKAGE): a program of Debian's for the tests, in build/PACKAGE: not installed, so that no service starts.
define unpack
@rm -rf build/$(1) build/$(1).new && mkdir -p build/$(1).new
@cd build/$(1).new && download() { apt-get download -qq -o APT::Sandbox::User=root $(1); } && { download || \
    { [ "$$(id -u)" = 0 ] && apt-get update -qq && download; } || { echo "the package $(1) is unavailable: run apt-get update as root"; exit 1; }; }
@dpkg -x build/$(1).new/*.deb build/$(1).new && rm build/$(1).new/*.deb && mv build/$(1).new build/$(1)
endef

$(PROMTOOL):
	$(call unpack,prometheus)

$(REGISTRY):
	$(call unpack,docker-registry)

$(DEBIAN_13): packages
	@[ -x $@ ] || { echo "unpacking HAProxy and keepalived of Debian 13 (about 15 s)" && $(PY) -m tests.golden.debian_13; }

# ---- the program -----------------------------------------------------------------------------------------------------------
render: setup ## write the files each load balancer would get: STACK=dev OUT=folder
	@.venv/bin/python -m dev.review.render $(STACK) $(OUT)

preview: setup toolchain ## what `pulumi up` would change, saved for guard and pull-request-comment: STACK=dev
	@mkdir -p $(PULL_REQUEST) && rm -f $(PULL_REQUEST)/resources.diff
	@# If the preview fails, the comment and `make guard` report it.
	@toolchain/pulumi preview --stack $(STACK) --non-interactive --json --show-sames >$(PULL_REQUEST)/preview.json || true
	@toolchain/pulumi preview --stack $(STACK) --non-interactive --color never --diff >$(PULL_REQUEST)/preview.txt 2>&1 || true

preview-against-mocks: setup ## the same without credentials: how the resources differ from BASE: STACK=dev BASE=origin/main
	@rm -f $(PULL_REQUEST)/preview.*
	@.venv/bin/python -m dev.review.compare dev.review.resources $(STACK) $(BASE) $(PULL_REQUEST)/resources.diff

render-diff: setup ## how the load balancers' files differ from BASE: STACK=dev BASE=origin/main
	@.venv/bin/python -m dev.review.compare dev.review.render $(STACK) $(BASE) $(PULL_REQUEST)/files.diff

guard: setup ## stop a dangerous change that `make preview` found, unless allowed by name: ALLOW="vip ..."
	@./ha guard $(PULL_REQUEST)/preview.json $(ALLOW:%=--allow %)

pull-request-comment: setup ## a comment and a longer summary of what the targets above found: ALLOW="vip ..."
	@.venv/bin/python -m dev.review.pull_request $(STACK) $(PULL_REQUEST) $(ALLOW:%=--allow %)

reference: setup ## generate the table of settings in docs/configuration.md from Pulumi.yaml
	.venv/bin/python -m dev.reference --write

toolchain: ## install Pulumi's CLI and plugins: from PATH, from the vendor, or built here
	@toolchain/install

bench: setup bench-packages ## what faults cost clients (root): QUICK=1, ONLY="fault ...", CONFIGURATION="name ...", REPEATS=3
	@.venv/bin/python -m dev.bench $(if $(QUICK),--quick) $(ONLY:%=--only %) $(CONFIGURATION:%=--configuration %) \
	    $(REPEATS:%=--repeats %)

bench-timers: setup bench-packages ## compare advertisement timers (root, 20 minutes): REPEATS=3
	@.venv/bin/python -m dev.bench --timers --out build/bench-timers $(REPEATS:%=--repeats %)

bench-storm: setup bench-packages ## 1,000 and 5,000 connections at once, for the documents (root, a minute)
	@.venv/bin/python -m dev.bench.storm
	@.venv/bin/python -m dev.documents

bench-lab: setup toolchain lab-up ## what faults cost clients on the lab, by network and path (root, 20 minutes): REPEATS=5
	@.venv/bin/python -m dev.lab_bench $(REPEATS:%=--repeats %)
	@.venv/bin/python -m dev.documents

bench-report: setup ## the results of bench and bench-timers, and pictures, into docs/; all other pictures go to build/failover
	@[ ! -e build/bench/results.json ] || .venv/bin/python -m dev.bench.report build/bench/results.json
	@[ ! -e build/bench-timers/results.json ] || .venv/bin/python -m dev.bench.curves build/bench-timers/results.json
	@.venv/bin/python -m dev.documents

documents: setup ## generate what documents quote of measurements, from docs/failover/measured.json
	@.venv/bin/python -m dev.documents

demo: setup toolchain ## OpenStack on this machine, the system on it, and a failover (root)
	@.venv/bin/python -m dev.demo

# ---- the lab ---------------------------------------------------------------------------------------------------------------
lab-up: setup ## start a real OpenStack in a container on this machine (root)
	@.venv/bin/python -m dev.lab up

lab-debian-13: lab-up ## add the image debian-13 to it, which the end-to-end tests use
	@.venv/bin/python -m dev.lab add-debian-13

lab-kubernetes: setup ## build Kubernetes' packages and images, which lab-up does as well (root, 11 minutes once)
	@.venv/bin/python -m dev.lab build-kubernetes

lab-down: setup ## stop it; keeps instances and data
	@.venv/bin/python -m dev.lab down

lab-status: setup ## what runs, and how to use it
	@.venv/bin/python -m dev.lab status

lab-purge: setup ## stop it and delete its data
	@.venv/bin/python -m dev.lab purge

clean-cache: setup ## delete what was built: root file system, images, Kubernetes, toolchain
	@.venv/bin/python -m dev.lab clean-cache
	@toolchain/clean

.PHONY: help setup lock lint unit golden dataplane toolchain-test kubernetes-test e2e e2e-extended test packages bench-packages e2e-packages render \
	preview preview-against-mocks render-diff guard pull-request-comment reference toolchain documents \
	bench bench-timers bench-storm bench-lab bench-report demo lab-up lab-debian-13 lab-kubernetes lab-down lab-status lab-purge clean-cache
