# New users need two commands: `make demo` and `make test`. Both install all dependencies, in .venv and install.
PYTHON ?= python3
OUT ?= demo
MINUTES ?= 30
SHELL := bash
ENV := . scripts/env.sh &&
# Independent targets at the same time, for machines with two cores.
TWO_JOBS := $(MAKE) --no-print-directory --jobs=2
# pip leaves byte-compilation to the first import, which this variable would prevent.
unexport PYTHONDONTWRITEBYTECODE

define BUILD_BODY
from multihmr2_ros.body import Body
print("setup: building the body model cache, only once (less than a minute)", flush=True)
Body("full"), Body("low")
endef
export BUILD_BODY

.PHONY: help setup packages messages body compiled-tests demo test test-slow soak lint clean

help:
	@echo "make setup      install Python packages and ROS 2 in .venv, messages in install; then: . scripts/env.sh"
	@echo "make demo       run the live node on a simulated recording; or on a video: make demo VIDEO=walk.mp4"
	@echo "make test       run the fast tests, the linter and the type checker"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make soak       run the live node for 30 minutes, with plots in soak; or: make soak MINUTES=5"
	@echo "make lint       run only the linter, the formatter and the type checker"
	@echo "make clean      remove the files of the other targets"

setup:
	@$(TWO_JOBS) messages body
	@echo "setup: ready: source scripts/env.sh"

# scripts/setup.sh is fast if nothing has changed, and reports missing dependencies.
packages:
	@PYTHON=$(PYTHON) bash scripts/setup.sh packages

messages: packages
	@bash scripts/setup.sh messages

body: packages
	@test -f .venv/body || { .venv/bin/python -c "$$BUILD_BODY" && touch .venv/body; }

demo: setup
	$(ENV) python scripts/demo.py --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)")

# Three processes with one thread each, for machines with two cores: many tests wait for messages. The long files of few
# tests are not kept for the end.
test:
	@$(TWO_JOBS) lint messages body compiled-tests
	$(ENV) OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Compiles the tests and the packages that they import, before three processes would all do so. Errors are those of the
# tests, which report them.
compiled-tests: messages
	@test -f build/collected.log || { $(ENV) python -m pytest --collect-only -q >build/collected.log 2>&1; } || true

test-slow: setup
	$(ENV) python -m pytest -m slow

soak: setup
	$(ENV) SOAK_MINUTES="$(MINUTES)" SOAK_OUT=soak python -m pytest -s -m soak test/ros/test_soak.py

lint: packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv build install log demo soak *.egg-info
