# `make compare` runs the main job and `make test` the tests; both set up the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: compare test check docs clean

compare: $(VENV)/.installed
	$(BIN)/harness compare --methods grpo,sft,dpo --model tiny

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The API reference, from docstrings; packages with __all__ show what it lists.
# pdoc cannot resolve the annotations of generated __init__ methods, hence -W.
docs: $(VENV)/.installed
	$(BIN)/python -W "ignore:Error parsing type annotation" -m pdoc --docformat google --output-directory docs/api harness harness.api.testing algorithms rewards reports

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
