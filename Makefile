# `make demo` and `make test` work from nothing: they make .venv from requirements.lock first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
# torch and what it brings for a GPU come from your index, for your machine; everything else is locked
TORCH_PARTS := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
	cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

.PHONY: demo test lint format lock clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.ready   ## set up, then run the main job: five tasks of handwritten digits, nine merge methods
	$(BIN)/mergeline run studies/digits.yaml

test: $(VENV)/.ready lint   ## everything that CI runs
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' found; install Python 3.11 to 3.13 or say make PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, {sys.version.split()[0]} was found; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 uv==0.13.9
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --no-deps --python $(BIN)/python -e .
	@touch $@

lock:   ## solve the ranges of pyproject.toml again
	$(UV) pip compile pyproject.toml --extra dev --upgrade --no-header --no-annotate --no-emit-index-url \
		$(addprefix --no-emit-package ,$(TORCH_PARTS)) --python $(BIN)/python -o requirements.lock

clean:   ## forget all runs and finished work; the data stays
	rm -rf .mergeline results
