# Works on a fresh clone with Python 3.11 or later, make and a package index; nothing else is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# Compile on all cores, but not what hardly any run or test imports. It fails at a file of torch for later versions of
# Python, which is not needed.
SELDOM  := /transformers/models/|/tests?/|/testing/|/torch/_inductor/|/(fontTools|networkx|nltk|pip|playwright|pygments|setuptools)/
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib || true
# One process per core, and one thread in each of them and of the programs that they start: more would wait for each
# other. Each process takes neighbouring tests, which share what they build.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install smoke quickstart test test-slow test-ci test-gpu test-long test-all check hooks tables figures report docs bench clean

help:                ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/installed  ## create .venv with the package and the tools for development

# What runs need, without the tools for development: a first result comes sooner. Both files are made again when the
# dependencies change. We use pip because it picks a CPU build of torch where one is offered; the newest takes two
# thirds of the time of Python 3.11's own. It uses one core, so torch is compiled meanwhile.
$(VENV)/runs: EXTRAS := report,peft,gguf
$(VENV)/installed: EXTRAS := dev
$(VENV)/runs $(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) "torch>=2.11,<2.14"
	{ $(COMPILE); } & $(PIP) --editable ".[$(EXTRAS)]" && wait
	$(COMPILE)
	touch $(VENV)/runs $@

smoke: $(VENV)/runs  ## show the paper's point in three lines: under a minute, nothing to download
	OMP_NUM_THREADS=1 $(BIN)/rosa-bench +experiment=smoke  # for matrices this small, threads would wait for each other

quickstart: $(VENV)/runs  ## fine-tune a small encoder with six methods on an easy synthetic task; print their scores
	$(BIN)/rosa-bench models pull minilm
	$(BIN)/rosa-bench +experiment=quickstart

test: install        ## run the quick tests: about five minutes on two cores
	$(PYTEST) -m "not slow and not long and not gpu"

test-slow: install   ## run the slow tests: random kills, launchers, a hub, the browser, real trackers
	$(PYTEST) -m "slow and not long and not gpu"

test-ci: install     ## run the quick and the slow tests together, as continuous integration does
	$(PYTEST) -m "not long and not gpu"

test-gpu: install    ## run the tests that need a GPU, one at a time
	$(BIN)/pytest -m gpu

test-long: install   ## run the long tests by hand: fuzzers, and every method on every model
	$(PYTEST) -m "long and not gpu"

test-all: install    ## run every test; those that need a GPU are skipped without one
	$(PYTEST)

check: install       ## check style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

hooks: install       ## run the quick checks before every git commit
	$(BIN)/pre-commit install

tables: $(VENV)/runs      ## make the tables in results/ from its records
	$(BIN)/rosa-bench tables

figures: $(VENV)/runs     ## make the figures in results/ from its records
	$(BIN)/rosa-bench figures

report: $(VENV)/runs      ## make results/report.html: tables, figures and every run on one page
	$(BIN)/rosa-bench report

docs: install        ## build the site of guides and results into outputs/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml

bench: install       ## measure time and memory into results/benchmarks; DATA=folder adds whole runs on CoLA
	$(BIN)/python -m scripts.benchmarks.resample
	$(BIN)/python -m scripts.benchmarks.resample_choices
	$(BIN)/python -m scripts.benchmarks.step
	if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then $(BIN)/python -m scripts.benchmarks.decoder_step; fi
	$(BIN)/python -m scripts.benchmarks.whole_run results/benchmarks $(DATA)
	$(BIN)/python -m scripts.benchmarks.generation
	$(BIN)/python -m scripts.benchmarks.host
	$(BIN)/python -m scripts.benchmarks.sizes
	$(BIN)/python -m scripts.benchmarks.memory_savers

clean:               ## delete .venv and caches; models and choices in outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
