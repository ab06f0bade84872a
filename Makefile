# Two commands set everything up, environment included: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
READY := $(VENV)/.ready
# The judge's package wants an older setuptools than ours: an environment of its own.
ALPACA := $(VENV)/alpaca_eval
# Exports are read by the last generation of transformers, too: an environment with nothing of ours.
TRANSFORMERS_4 := $(VENV)/transformers-4
# torchao warns at every start: a folder that only the tests of quantisation have on their path.
QUANTISATION := $(VENV)/quantisation
# Ray is an extra: a folder that only its tests have on their path.
RAY := $(VENV)/ray
# vLLM wants one release of torch, and an older transformers than the lock.
VLLM := $(VENV)/vllm

.PHONY: demo test test-ray test-vllm test-versions test-wheel check env clean

demo: $(READY)  ## the main job on the embedded pair: a few-shot score at λ = 0.5
	HF_HUB_OFFLINE=1 $(BIN)/lm_eval --model partial-hf \
	  --model_args base=lm_eval_partial/demo/base,instruct=lm_eval_partial/demo/instruct,lam=0.5,dtype=float32 \
	  --tasks partial_demo --include_path task_configs

# ARGS choose from the tests; without, those of quantisation run too, in a process of their own.
test: $(READY) $(ALPACA)/.ready $(TRANSFORMERS_4)/.ready $(QUANTISATION)/.ready  ## the tests (CPU; `make test ARGS="-m slow"` for the slow ones)
	ALPACA_EVAL_PYTHON=$(abspath $(ALPACA))/bin/python TRANSFORMERS_4_PYTHON=$(abspath $(TRANSFORMERS_4))/bin/python \
	  $(BIN)/python -m pytest -n auto $(ARGS)
ifeq ($(strip $(ARGS)),)
	PYTHONPATH=$(abspath $(QUANTISATION)) $(BIN)/python -m pytest -m quantisation tests/weights/test_quantisation.py
endif

test-vllm: $(VLLM)/.ready  ## the tests of partial-vllm (`make test` skips them; ARGS="-m gpu" on a GPU)
	$(VLLM)/bin/python -m pytest $(ARGS) tests/vllm

test-ray: $(RAY)/.ready  ## the tests of sweeps on Ray (`make test` skips them)
	PYTHONPATH=$(abspath .):$(abspath $(RAY)) $(BIN)/python -m pytest -n 0 -m "slow or not slow" $(ARGS) tests/sweep/test_ray.py

test-versions:  ## some tests on the lowest, locked and newest releases (`ARGS=newest` for one, `ARGS=--write` for docs)
	$(PYTHON) tests/versions.py --torch $(TORCH) --folder $(VENV)/versions $(ARGS)

test-wheel:  ## the sdist and the wheel, checked and run in an environment of their own (PYTHON=python3.12 for another)
	rm -rf $(VENV)/wheel
	$(PYTHON) tests/wheel.py --torch $(TORCH) --folder $(VENV)/wheel

check: $(READY)  ## style, types, and which way imports run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(READY)

# torch comes first and alone: asked for by another package, pip may take a build of several gigabytes.
$(READY): requirements.lock pyproject.toml lm_eval_partial_autoload.pth
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==$(TORCH)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

$(ALPACA)/.ready: $(READY)
	$(BIN)/lm-eval-partial alpaca-eval install --environment $(ALPACA)
	touch $@

$(TRANSFORMERS_4)/.ready:
	$(PYTHON) -m venv $(TRANSFORMERS_4)
	$(TRANSFORMERS_4)/bin/pip install --quiet torch==2.13.0
	$(TRANSFORMERS_4)/bin/pip install --quiet transformers==4.51.3 sentencepiece==0.2.3 protobuf==7.36.2
	touch $@

$(QUANTISATION)/.ready: $(READY)
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(QUANTISATION) bitsandbytes==0.50.0 torchao==0.18.0
	touch $@

$(RAY)/.ready: $(READY)
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(RAY) ray==2.60.0 msgpack jsonschema attrs referencing rpds-py jsonschema-specifications
	touch $@

$(VLLM)/.ready: requirements-vllm.lock pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet torch==$(TORCH)
	$(VLLM)/bin/pip install --quiet --no-deps --requirement requirements-vllm.lock
	$(VLLM)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) dist
