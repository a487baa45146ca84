# make demo: compile LeNet and train a small model here.  make test: everything that runs without a GPU.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
comma := ,
# Where nvcc is found, the tests that compile and link with it need NVIDIA's libraries too (wheels, about 1 GB).
EXTRAS := test,dev$(if $(shell command -v nvcc),$(comma)nvcc)

.PHONY: demo test test-deep lint format clean
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not deep' tests

test-deep: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist
