# `make demo` and `make test` need nothing but Python 3.11+, a C compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := build/release-tools
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard ext/*.pyx ext/*.pxd ext/*.h)

.PHONY: demo docs quick test lint types pytest test-gpu bench-gpu wheel wheels clean

demo: $(VENV)/.demo
	$(BIN)/triplex-deploy demo --out demo-out

# Under a minute on two cores: style, and the tests that need neither PyTorch nor an exported
# bundle. CONTRIBUTING.md says how to keep the list; `make test` runs all tests.
QUICK_TESTS := tests/test_architecture.py tests/test_bundle.py tests/test_contract.py \
	tests/test_precision_table.py tests/bench tests/cohort tests/data tests/expression \
	tests/outputs tests/pipeline tests/slides tests/spots tests/tiles tests/docs/test_command_lines.py \
	tests/cli/test_help.py tests/cli/test_config_file.py tests/cli/test_completion.py
# These need PyTorch or a bundle:
QUICK_SKIPPED := bench/test_run.py bench/test_slide_work.py outputs/test_barcodes.py \
	pipeline/test_graph_digest.py pipeline/test_predict_slide.py pipeline/test_real_models.py \
	pipeline/test_real_slides.py
# These take long: they start and stop processes, or read whole sections.
QUICK_SKIPPED += cohort/test_killed_runs.py cohort/test_processes.py cohort/test_ray.py \
	data/test_her2st_labels.py data/test_st.py pipeline/test_stopping.py

quick: $(VENV)/.quick
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not gpu" \
		$(addprefix --ignore=tests/,$(QUICK_SKIPPED)) $(QUICK_TESTS)

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
