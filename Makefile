# Two commands do all the set-up: `make compare` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: compare test check docs clean

compare: $(VENV)/.installed
	$(BIN)/harness compare --methods grpo,sft,dpo --model tiny

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference, from docstrings alone. pdoc cannot look up the annotations of a generated __init__ and shows them as
# they stand.
docs: $(VENV)/.installed
	$(BIN)/python -W "ignore:Error parsing type annotation" -m pdoc --docformat google --output-directory docs/api harness algorithms rewards reports

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
