# `make demo` and `make test` need nothing but Python 3.11+, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard ext/*.pyx ext/*.pxd ext/*.h)

.PHONY: demo docs test lint types pytest test-gpu bench-gpu clean

demo: $(VENV)/.demo
	$(BIN)/triplex-deploy demo --out demo-out

test: lint types docs pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Two processes: more would each export the fixtures' models again, and compete in what is timed.
pytest: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

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

# Each stamp is an installed set of extras; a change to the build inputs reinstalls it.
$(VENV)/.demo: $(SOURCES)
	$(call install,cpu$(comma)export$(comma)train)

$(VENV)/.dev: $(SOURCES)
	$(call install,cpu$(comma)export$(comma)train$(comma)dev$(comma)docs)
	touch $(VENV)/.demo

comma := ,
define install
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(1)]"
	touch $@
endef

clean:
	rm -rf $(VENV) build demo-out *.egg-info triplex_deploy/*/_*.so
