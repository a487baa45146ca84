# make demo: compile LeNet and train a small model here.  make test: everything that runs without a GPU.
# make docs: the manual, to docs/_build/html.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs
comma := ,
# Where nvcc is found, the tests that compile and link with it need NVIDIA's libraries too (wheels, about 1 GB).
EXTRAS := test,dev$(if $(shell command -v nvcc),$(comma)nvcc)

.PHONY: demo test test-deep lint format docs clean
$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m 'not deep' tests

test-deep: $(STAMP) $(DOCS_STAMP)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -E -a -W --keep-going -q -b html docs docs/_build/html
	@echo The manual is docs/_build/html/index.html

clean:
	rm -rf .venv build dist docs/_build
