# make quickstart, make test: on a fresh clone, with Python 3.11 or later, make and a package index, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: install quickstart test check tables figures report bench clean

install: $(VENV)/installed

# Made anew when the dependencies change. pip, and not another installer, takes a CPU build of torch where one is on offer.
$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch>=2.11,<2.14"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

quickstart: install  ## FT, LoRA, (IA)^3 and ROSA on a small real encoder and a synthetic task, and their table
	$(BIN)/rosa-bench models pull minilm
	$(BIN)/rosa-bench -m +experiment=quickstart
	$(BIN)/rosa-bench tables results_dir=outputs/quickstart

test: install        ## the tests
	$(BIN)/pytest -n auto

check: install       ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

tables: install      ## the tables of results/, from its records
	$(BIN)/rosa-bench tables

figures: install     ## the figures of results/, from its records
	$(BIN)/rosa-bench figures

report: install      ## results/report.html: the tables, the figures and all runs on one page
	$(BIN)/rosa-bench report

bench: install       ## times and memory, into results/benchmarks; DATA=folder for whole runs on CoLA
	$(BIN)/python -m scripts.benchmarks.resample
	$(BIN)/python -m scripts.benchmarks.step
	$(BIN)/python -m scripts.benchmarks.whole_run results/benchmarks $(DATA)
	$(BIN)/python -m scripts.benchmarks.generation

clean:
	rm -rf $(VENV) outputs .pytest_cache .ruff_cache .import_linter_cache
