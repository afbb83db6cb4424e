# Every target sets up what it needs: a virtual environment in .venv with the tested versions.
# `make PYTHON=python3.12 test` chooses another Python.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/installed-for-use
INSTALLED_DEV := $(VENV)/installed-for-development

.PHONY: help demo test test-slow check format clean
help:
	@echo "make demo       train and judge a small model on phantoms, in demo/"
	@echo "make test       run the tests, about five minutes"
	@echo "make test-slow  run the long tests: kills, many processes, the whole demo"
	@echo "make check      ruff, mypy, import-linter"

$(INSTALLED): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(RUN)/medp2p demo demo

test: $(INSTALLED_DEV)
	$(RUN)/python -m pytest

test-slow: $(INSTALLED_DEV)
	$(RUN)/python -m pytest -m slow

check: $(INSTALLED_DEV)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: $(INSTALLED_DEV)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
