# Set-up, tests and the demo. Everything is installed into .venv; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Types of TensorRT, apart, where only mypy looks: elsewhere they would stand for TensorRT itself.
# Five of their ten thousand lines are not Python.
STUBS := tensorrt-stubs==10.13.0.35.1
MEND_STUBS := 's/\bin: list/inputs: list/; s/channel_axis: int) -> IScaleLayer/channel_axis: int = 0) -> IScaleLayer/'
SOURCES := $(shell find dynexport models calibration -type f -not -name '*.pyc') pyproject.toml

# Neighbouring tests on one worker, whose fixtures they share; compiled tests are kept.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

.PHONY: setup test test-quick test-thorough lint types unit unit-quick fuzz demo docs dist pythons bench image-check gpu-check clean

setup: $(VENV)/.package

# PyTorch first and alone: pinned, so that pip takes a CPU build where one is offered.
$(VENV)/.requirements: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/stubs $(STUBS)
	sed -i $(MEND_STUBS) $(VENV)/stubs/tensorrt_bindings/tensorrt.pyi
	touch $@

# The package as users get it, not the source tree: a module missing from the wheel shows.
$(VENV)/.package: $(VENV)/.requirements $(SOURCES)
	rm -rf build *.egg-info
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall .
	rm -rf build *.egg-info
	touch $@

# Lint and types beside the tests; what fails is shown at once, and the others still end.
test: setup
	$(MAKE) --no-print-directory --jobs=3 --keep-going lint types unit

# Without the tests marked slow: full-size models, engines, commands in processes of their own.
test-quick: setup
	$(MAKE) --no-print-directory --jobs=3 --keep-going lint types unit-quick

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p dynexport

unit: setup
	$(PYTEST) -m 'not install and not thorough'

unit-quick: setup
	$(PYTEST) -m 'not install and not slow'

# Golden and trained models in half precision and int8, and the tools that look at what is written.
test-thorough: setup
	$(PYTEST) -m 'thorough and not install'

# Damaged and unsound input through every command, for an hour; OPTIONS="--seed S --input N" shows one.
fuzz: setup
	cd tests && OMP_NUM_THREADS=1 ../$(BIN)/python -m fuzz $(OPTIONS)

demo: setup
	$(BIN)/python examples/mnist/demo.py

# The source archive and the wheel, each tried in a virtual environment of its own, outside the tree,
# and the wheel with one runtime after the other, as a device has them.
dist: setup
	$(BIN)/python .ci/dist.py
	$(BIN)/pytest -q -m 'install and not pythons' tests/project
	rm -rf build *.egg-info

# Conversions in the other Pythons that are here; each takes PyTorch as pip finds it, with CUDA 5 GB.
pythons: setup
	$(BIN)/pytest -q -m pythons tests/project

# The documentation as a site that opens from disk, site/index.html; strict: a dead link ends it.
# Not --quiet: it drops the warnings that --strict counts.
docs: setup $(VENV)/.docs
	$(BIN)/python docs/hooks/cli_reference.py
	$(BIN)/python docs/hooks/api_reference.py
	$(BIN)/python docs/hooks/figures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Groups of dependencies are known to pip from 25.1 on.
$(VENV)/.docs: $(VENV)/.requirements pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --group docs
	touch $@

# Beside the peers on this machine, about half an hour; OPTIONS="--models deit-s --batches 1".
bench: setup $(VENV)/.bench
	$(BIN)/python benchmarks/peers.py $(OPTIONS)

$(VENV)/.bench: $(VENV)/.requirements benchmarks/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

# The CPU image, built and tried without a Docker engine: Debian's buildah and debootstrap, and root.
image-check:
	docker/build-cpu-without-engine.sh

# On a machine with an NVIDIA GPU; OPTIONS as in OPTIONS="model.onnx --batches 1 8".
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/,)python benchmarks/gpu_check.py $(OPTIONS)

clean:
	rm -rf $(VENV) build dist out *.egg-info
