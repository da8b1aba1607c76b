# Two commands: `make demo` takes prompts to proof, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: demo test clean

demo: $(VENV)/installed
	$(BIN)/halovid run recipes/demo.yaml $(RUN)

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# torch is free in the range; the constraints hold it to a release with a CPU build that all the others fit
$(VENV)/installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints-cpu.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
