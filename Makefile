# Two commands do all the set-up: `make demo` and `make test`. The rest is for developers.
PYTHON ?= python3
VENV   ?= .venv
VENV_THIRDPARTY ?= .venv-thirdparty
# torchvision must be of the same build as torch, so this venv has a pair of its own.
TORCH_THIRDPARTY ?= torch==2.14.1 torchvision==0.29.1
# The CPU wheel of this release is small and is the one CI tests; see docs/install.md for CUDA and other sources.
TORCH  ?= torch==2.13.0
DEMO_MINUTES ?= 2
DEMO_OUT     ?= demo
FUZZ_SECONDS ?= 120

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
NATIVE := $(shell find csrc -type f 2>/dev/null) setup.py $(wildcard build_tools/*.py)

# Of other Pythons: it would go before what the venv holds.
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-thirdparty lint format docs fuzz sanitize bench gpu-check clean

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lkca needs Python 3.11 or newer, and $(PYTHON) is not. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)"
	$(PIP) install --quiet "setuptools>=77" wheel ninja "pybind11>=2.13"
	@touch $@

# An editable install; remade when native sources or the dependencies change.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(VENV)/.tested-with: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(PIP) install --quiet --no-build-isolation --editable ".[test,bench,lint]"
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(VENV)/bin/lkca doctor
	$(VENV)/bin/lkca demo --minutes $(DEMO_MINUTES) -o $(DEMO_OUT) --overwrite

# Each family in its own process: Triton decides at import whether it interprets. Passive: workers share the cores.
test: export OMP_WAIT_POLICY = passive
test: $(VENV)/.tested-with
	$(PY) -m pytest -n 2
	TRITON_INTERPRET=1 $(PY) -m pytest tests/lkca_kernels -k triton -n 2

# Gigabytes of output under a memory limit.
test-slow: $(VENV)/.tested-with
	LKCA_SLOW_TESTS=1 $(PY) -m pytest tests/lkca/inference/test_memory.py

# Published networks, in a venv of its own: spandrel brings torchvision.
test-thirdparty:
	$(PYTHON) -m venv $(VENV_THIRDPARTY)
	$(VENV_THIRDPARTY)/bin/pip install --quiet $(TORCH_THIRDPARTY) "spandrel==0.4.2" einops pytest pytest-timeout \
	  "setuptools>=77" wheel ninja "pybind11>=2.13"
	LKCA_BUILD_CUDA=0 $(VENV_THIRDPARTY)/bin/pip install --quiet --no-build-isolation --editable .
	$(VENV_THIRDPARTY)/bin/python -m pytest tests/thirdparty

lint: $(VENV)/.tested-with
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.tested-with
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')

# Damaged files and wrong arguments, for longer than the tests do it.
fuzz: $(VENV)/.tested-with
	$(PY) tests/fuzz/mutate.py --seconds $(FUZZ_SECONDS)
	LKCA_FUZZ_EXAMPLES=5000 $(PY) -m pytest tests/fuzz/test_operators.py

# The C++ backend's tests on a build with AddressSanitizer and UBSan.
sanitize: $(VENV)/.tested-with
	$(PY) build_tools/sanitize.py --self-test

docs: $(VENV)/.tested-with
	$(VENV)/bin/mkdocs build --strict

bench: $(VENV)/.tested-with
	$(PY) -m pytest bench --benchmark-only --benchmark-json=bench/results/last.json
	$(PY) bench/table.py bench/results/last.json

gpu-check:
	$(PYTHON) bench/gpu_check.py

clean:
	rm -rf build dist *.egg-info $(VENV) $(VENV_THIRDPARTY) $(DEMO_OUT)
	find lkca_kernels -name '*.so' -delete
