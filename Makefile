# make help lists the targets. The first run creates $(VENV) and installs everything into it.
# PYTHON=python3.12         another interpreter (3.11 or newer)
# VENV=path                 another place for the environment
# TORCH_INDEX=address       another package index for torch and torchvision, e.g. one of CPU builds
# KLRP_DATA=folder | none   where the data sets are, or the small embedded ones and no network

SHELL := /bin/sh
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?=
NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p $(NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
BIN := $(abspath $(VENV))/bin
PY := $(BIN)/python
STAMP := $(VENV)/.klrp-installed
PAGE := $(CURDIR)/_build/html/index.html
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=300

.PHONY: help env book student slides pdf test notebooks lab fmt lint clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 20

env: $(STAMP)  ## the environment alone

# The stamp is written last: an installation that was interrupted is taken up again by the next make. Of LXT the tests
# use functions that need torch alone; what it asks for besides, for language models, is left out.
$(STAMP): pyproject.toml
	@$(or $(PYTHON),false) $(NEW_ENOUGH) || { echo "klrp needs Python 3.11 or newer, and found\
	 $(or $(PYTHON),none on the PATH). Name one: make $(or $(MAKECMDGOALS),book) PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing into $(VENV): some minutes, and several GB where torch comes with CUDA."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	$(PY) -m pip install -e ".[all]"
	$(PY) -m pip install -q --no-deps "lxt>=2.1,<3"
	@touch $@

book: $(STAMP)  ## the rendered book, from the stored outputs
	PATH="$(BIN):$$PATH" $(BIN)/jupyter-book build . --all -W -n --keep-going --quiet
	@echo; echo "The book is built. Open $(PAGE)"

student: $(STAMP)  ## the notebooks without solutions, for students
	$(PY) scripts/student.py

slides: $(STAMP)  ## the slides of the six lectures
	$(PY) scripts/slides.py

pdf: $(STAMP)  ## the built book in one PDF file, by Chromium
	$(PY) scripts/pdf.py

test: $(STAMP)  ## unit tests, then every notebook
	@$(PY) -m pytest $(PYTEST_ARGS) tests; unit=$$?; \
	echo; echo "Executing the notebooks (KLRP_FAST=1)"; \
	KLRP_FAST=1 $(PY) -m pytest -q $(PYTEST_ARGS) $(NBVAL) book; book=$$?; \
	exit $$((unit > book ? unit : book))

notebooks: $(STAMP)  ## execute the notebooks whose outputs are stale, and store the outputs
	$(PY) scripts/run_notebooks.py

lab: $(STAMP)  ## work in JupyterLab
	$(BIN)/jupyter lab book

fmt: $(STAMP)  ## format the code, notebooks included
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(STAMP)  ## what fmt would change, and the types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove what was built (the environment stays)
	rm -rf _build .pytest_cache .hypothesis .ruff_cache *.egg-info
