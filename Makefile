# Two commands for a new user: `make demo` and `make test`. Both set everything up by themselves, in .venv.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo

.PHONY: help setup demo test test-slow lint clean

help:
	@echo "make demo       set up .venv and run the main job on generated pictures"
	@echo "make test       the fast tests, the linter and the type checker"
	@echo "make test-slow  the tests that take minutes"
	@echo "make clean      remove what the other targets made"

.venv/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "expected Python 3.10 to 3.13, got $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.11 …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@echo "building the body model's cache, once; about two minutes …"
	@$(BIN)/python -c 'from multihmr2_ros.body import Body; Body("full"); Body("low")'
	@touch $@

setup: .venv/ready

demo: setup
	$(BIN)/python scripts/demo.py --out $(OUT)

test: setup lint
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build install log demo *.egg-info
