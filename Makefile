# `make demo` and `make test` are all that a fresh machine needs; `make install` prepares .venv alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo docs test lint check test-gpu package try-package bench soak clean

install: .venv/installed
demo: install
	$(BIN)/python -m dr_pipeline.demo.scenes outputs/scenes
	$(BIN)/dr-pipeline run jobs/quickstart.yaml
	$(BIN)/dr-pipeline verify outputs/quickstart
	$(BIN)/dr-pipeline inspect outputs/quickstart
	$(BIN)/python -m dr_pipeline.demo.held_out outputs/held_out
	$(BIN)/dr-pipeline look outputs/quickstart --html outputs/quickstart.html
	@echo "The reinforced shards lie in outputs/quickstart. Train a student on them and measure it:"
	@echo "    $(BIN)/dr-pipeline train jobs/train_quickstart.yaml"

# The documentation as a folder of pages, site/index.html first; it needs no server. A broken link ends the build.
docs: .venv/installed-docs
	$(BIN)/python docs/generate build/docs
	$(BIN)/zensical build --clean --strict
	@echo "The pages lie in site/; begin at site/index.html."

test: .venv/installed-test lint check

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each: more threads than cores would wait for one another.
check:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

# What needs an NVIDIA GPU, the views that one renders, and the kernels of captions; what needs a GPU is skipped without.
test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -v --tb=short -o faulthandler_timeout=60 tests/gpu tests/views/test_device.py tests/models/test_kernels.py

# The source archive, and the wheel built from it, in dist/.
package: .venv/installed-dev
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Runs the demo by that wheel alone, in an environment and a folder of its own.
try-package:
	rm -rf build/try
	$(PYTHON) -m venv build/try/.venv
	build/try/.venv/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build/try && .venv/bin/python -m dr_pipeline.demo.scenes outputs/scenes
	cd build/try && .venv/bin/dr-pipeline run package://jobs/quickstart.yaml
	cd build/try && .venv/bin/dr-pipeline verify outputs/quickstart

# The quick form of every benchmark; the table goes to benchmarks/README.md.
bench: .venv/installed-bench
	$(BIN)/python benchmarks/run_all.py

# Kills of drivers, workers and nodes at random moments: make soak MINUTES=60 SEED=1
MINUTES ?= 10
SEED ?= 0
soak: .venv/installed-test
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv .cache outputs build site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing into .venv, several gigabytes with torch: minutes of silence."
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch .venv/installed $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

.venv/installed-dev: .venv/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@
