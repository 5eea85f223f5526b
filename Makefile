# Targets for people. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## Create .venv with the package and its tools, and what a guest boots on this host
	@$(BIN)/python -m compileall -q virtio transport vmm
	@$(BOUNDED) $(BIN)/vmm image build --usual $(IN_TIME)

# With UNTIL the kernel may take half of the time that is left.
BOUNDED = $(if $(UNTIL),timeout $$((($(UNTIL) - $$(date +%s)) / 2)))
IN_TIME = $(if $(UNTIL),|| { [ $$? = 124 ] && echo "no guest kernel within half of the time" >&2; })

# The kernel of ours, which tests and benchmarks are about, on any host.
.PHONY: image
image: $(READY) ## Build our guest kernel once (minutes), and the rest of the guest image
	@$(BOUNDED) $(BIN)/vmm image build --bzimage $(IN_TIME)

# What the native parts are built from: a change of theirs is a reason to install again.
NATIVE := setup.py $(wildcard virtio/native/*.[ch] virtio/native/build.py vmm/x86/run* \
  vmm/sandbox/*.c vmm/sandbox/build.py)

$(READY): pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "need Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update && apt-get install -y python3-venv; \
	  else echo "need the Debian package python3-venv" >&2; exit 2; fi; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check \
	  --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

.PHONY: run
run: setup ## Boot the guest: a shell on a terminal, a short demonstration otherwise
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/vmm run; else $(BIN)/vmm demo; fi

.PHONY: check
check: $(READY) ## Run the type checker and the linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) -rfEs $(if $(UNTIL),--until=$(UNTIL))

# An engine serves the rings, so all tests of what may stand on a ring run with each. These make no
# queue, and would find the same each time.
NO_QUEUE := tests/spec/test_conformance_table.py $(addprefix tests/unit/vmm/, \
  agent console course disk ending host image kvm legacy x86)

.PHONY: test
test: image setup check ## Run every test, WORKERS=2 at a time; those that boot a guest need /dev/kvm
	@for engine in python rings; do \
	  echo "what stands on rings, with the engine '$$engine':"; \
	  PYVMM_ENGINE=$$engine $(PYTEST) tests/unit tests/spec tests/fuzz \
	    $(addprefix --ignore=,$(NO_QUEUE)) || exit; \
	done
	@echo "every test, with the engine that is used where nobody chooses:"
	@$(PYTEST) --junit-xml=build/junit.xml

.PHONY: test-hardware
test-hardware: image setup ## Run what touches KVM on hardware KVM, which QEMU emulates; SHORT=1 is a part
	@$(BIN)/python -m tests.hosts.hardware $(if $(SHORT),--short) $(if $(UNTIL),--until=$(UNTIL))

.PHONY: kernels
kernels: setup ## Try kernels on hardware KVM, ROWS='debian/pci/4' or all; write tests/hosts/KERNELS.md
	@$(BIN)/python -m tests.hosts.kernels $(ROWS)

.PHONY: sanitize
sanitize: $(READY) ## Run the tests that use our C, built with address and undefined-behaviour sanitizers
	@$(BIN)/python -c 'import setuptools' 2>/dev/null || $(BIN)/pip install --quiet \
	  --disable-pip-version-check setuptools
	@$(BIN)/python -m tests.sanitize $(ARGS)

.PHONY: fuzz
fuzz: $(READY) ## Fuzz all targets for TIME=60 seconds together; what breaks a promise is kept
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet \
	  --disable-pip-version-check --config-settings editable_mode=compat --editable '.[fuzz]'
	@$(BIN)/python -m tests.fuzz.run --seconds $(or $(TIME),60)

.PHONY: coverage
coverage: $(READY) ## Run all tests but the Linux guests, traced, and raise tests/coverage
	@$(BIN)/python -m pytest --profile=$(or $(PROFILE),devel) tests/test_coverage.py

.PHONY: conformance
conformance: $(READY) ## Prove the items of VIRTIO 1.4, one by one; write the table of them and a page
	@$(BIN)/python -m tests.spec.conformance

.PHONY: drivers
drivers: image setup ## Check Linux's drivers against the duties of VIRTIO 1.2; write tests/spec/DRIVERS.md
	@$(BIN)/python -m tests.spec.drivers

.PHONY: bench
bench: image setup ## Measure start-up, boot, memory, exits, kicks and queues, and print them with the kind of host
	@$(BIN)/python tests/perf/bench.py
	@$(BIN)/python -m tests.perf.exits
	@$(BIN)/python -m tests.perf.queues 20

.PHONY: bench-peers
bench-peers: $(READY) ## Compare the virtio data path with QEMU's on this host; ARGS='--rounds 1' is quick
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/pip install --quiet \
	  --disable-pip-version-check --config-settings editable_mode=compat --editable '.[bench]'
	@$(BIN)/python -m tests.perf.peers $(ARGS)

.PHONY: bench-nets
bench-nets: $(READY) ## Compare networks through a tap with QEMU's without vhost, and measure the switch
	@$(BIN)/python -m tests.perf.peers.nets $(ARGS)
	@$(BIN)/python -m tests.perf.nets

.PHONY: docs
docs: $(READY) ## Build the site of the documentation in build/docs, and look at it if there is a browser
	@$(BIN)/python -c 'import mkdocs, mkdocstrings, playwright' 2>/dev/null || $(BIN)/pip install \
	  --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[docs]'
	@$(BIN)/python docs/build_site.py
	@$(BIN)/python -m pytest -q -rs tests/workflow/test_docs_site.py

DIST ?= dist

# The wheel is made from the source archive, so that nothing which a checkout has gathered slips in.
# auditwheel finds the oldest C library that has all that the native parts call, and names it.
.PHONY: wheel
wheel: $(READY) ## Build dist/*.tar.gz and dist/*.whl: installing that needs no compiler
	@rm -rf build/wheel "$(DIST)" && mkdir -p build
	@{ PYVMM_BUILD=complete $(BIN)/python -m build --outdir build/wheel . \
	  && PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir "$(DIST)" build/wheel/*.whl; \
	  } >build/wheel.log 2>&1 || { tail -20 build/wheel.log >&2; exit 1; }
	@mv build/wheel/*.tar.gz "$(DIST)" && ls "$(DIST)"

.PHONY: clean
clean: ## Remove the virtual environment and what tools left; the image cache stays
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
