# Two commands: `make demo` takes prompts to proof, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

.PHONY: demo test test-runs test-units test-families clean

demo: $(VENV)/installed
	$(BIN)/halovid run recipes/demo.yaml $(RUN)

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-runs test-units

# the two halves of the tests, which `test` runs side by side: whole runs take as long as everything else
test-runs:
	$(BIN)/python -m pytest tests/e2e tests/golden

test-units:
	$(BIN)/python -m pytest --ignore tests/e2e --ignore tests/golden

# every model family against its plain pipeline; `test` takes one of each kind
test-families: $(VENV)/installed
	HALOVID_ALL_FAMILIES=1 $(BIN)/python -m pytest tests/unit/models tests/e2e/test_families.py tests/e2e/test_pictures.py

# torch is free in the range; the constraints hold it to a release with a CPU build that all the others fit
$(VENV)/installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints-cpu.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
