# `make demo` and `make test` need nothing but Python 3.11+, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := build/release-tools
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard ext/*.pyx ext/*.pxd ext/*.h)

.PHONY: demo docs quick test test-all lint types pytest pytest-all fuzz soak cases test-gpu bench-gpu \
	gpu-first-run gpu-wheels \
	wheel wheels clean

demo: $(VENV)/.demo
	$(BIN)/triplex-deploy demo --out demo-out

# Under a minute on two cores: style, and the tests that need neither PyTorch nor an exported
# bundle. tests/conftest.py finds them; CONTRIBUTING.md describes the markers.
quick: $(VENV)/.quick
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile \
		-m "not torch and not lengthy and not slow and not gpu"

test: lint types docs pytest

# The same with the slow tests, as continuous integration runs it.
test-all: lint types docs pytest-all

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Two processes: more would compete for memory and in what is timed. What is slow to make is shared
# between them, and between runs, in build/test-cache. A process that crashes ends the run: xdist may
# wait forever after it has replaced one.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

pytest: $(VENV)/.dev
	$(PYTEST) -m "not slow"

pytest-all: $(VENV)/.dev
	$(PYTEST)

# Damaged files of every reader, for this many minutes; docs/reliability.md explains the table.
MINUTES ?= 20
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz.fuzz --minutes $(MINUTES) $(if $(JSON),--json $(JSON))

# Small slides with faults mixed in, in one process.
SLIDES ?= 500
soak: $(VENV)/.dev
	$(BIN)/python -m tests.field.soak --slides $(SLIDES) $(if $(JSON),--json $(JSON))

# A folder of recipes and every scripted attack, on what `make demo` leaves.
CASES ?= $(error CASES: give the folder of recipes, as in make cases CASES=recipes)
DEMO ?= demo-out
cases: $(VENV)/.dev
	$(BIN)/python -m tests.field.run_cases $(CASES) --demo $(DEMO) $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON))

# Into build/docs; a dead link or a name that no longer exists fails it.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/docs

# On a machine with a GPU, after what docs/gpu-servers.md says to install; neither uses the network.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

test-gpu:
	-$(GPU_PYTHON) -m triplex_deploy.cli doctor
	$(GPU_PYTHON) -m pytest tests/gpu tests/runtime -rs

bench-gpu:
	$(GPU_PYTHON) benchmarks/bench_graphs.py --device cuda:0 --json benchmarks/results/$$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-').json

# Every case appends its result to OUT/results.jsonl; the same command continues after a cut.
gpu-first-run:
	$(GPU_PYTHON) benchmarks/gpu_first_run.py --out $(or $(OUT),$(error OUT: give the folder of the results, as in make gpu-first-run OUT=first-run)) $(foreach slide,$(SLIDE),--slide $(slide)) $(if $(REHEARSE),--rehearse)

# The wheels of a GPU machine without a network, for two versions of Python, in pieces of PIECE_MB.
PIECE_MB ?= 1000
gpu-wheels:
	$(GPU_PYTHON) benchmarks/gpu_wheels.py --piece-mb $(PIECE_MB) $(if $(OUT),--out $(OUT))

# Linux wheels for Python 3.11 to 3.13, made from the sdist and tried in containers: needs docker.
wheels: $(TOOLS)/.wheels
	docker info >/dev/null || { echo "error: docker does not answer; start it, or run make wheel for this Python alone" >&2; exit 1; }
	rm -rf dist
	$(TOOLS)/bin/python -m build --sdist
	$(TOOLS)/bin/cibuildwheel --platform linux --output-dir dist dist/*.tar.gz

# The sdist, and from it one wheel for the Python of $(PYTHON) on this machine: needs no docker.
wheel: $(TOOLS)/.wheels
	rm -rf dist
	$(TOOLS)/bin/python -m build

# Each stamp is an installed set of extras; a change to the build inputs reinstalls it.
$(VENV)/.demo: $(SOURCES)
	$(call install,cpu$(comma)export$(comma)train)

$(VENV)/.quick: $(SOURCES)
	$(call install,cpu$(comma)dev)

$(VENV)/.dev: $(SOURCES)
	$(call install,cpu$(comma)export$(comma)train$(comma)dev$(comma)docs)
	# without torchvision, whose build on PyPI needs CUDA; where timm is missing, its tests skip
	-PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm safetensors
	touch $(VENV)/.demo $(VENV)/.quick

# What builds releases stays apart from what develops.
$(TOOLS)/.wheels: constraints.txt
	$(call need_python)
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build cibuildwheel
	touch $@

comma := ,
define need_python
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
endef
define install
	$(call need_python)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(1)]"
	touch $@
endef

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info triplex_deploy/*/_*.so
