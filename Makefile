# New users need two commands: `make demo` and `make test`. Both install all dependencies, in .venv and install.
PYTHON ?= python3
OUT ?= demo
MINUTES ?= 30
SHELL := bash
ENV := . scripts/env.sh &&

define BUILD_BODY
from multihmr2_ros.body import Body
print("setup: building the body model cache, only once (about two minutes)", flush=True)
Body("full"), Body("low")
endef
export BUILD_BODY

.PHONY: help setup demo test test-slow soak lint clean

help:
	@echo "make setup      install Python packages and ROS 2 in .venv, messages in install; then: . scripts/env.sh"
	@echo "make demo       run the live node on a simulated recording; or on a video: make demo VIDEO=walk.mp4"
	@echo "make test       run the fast tests, the linter and the type checker"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make soak       run the live node for 30 minutes, with plots in soak; or: make soak MINUTES=5"
	@echo "make lint       run only the linter, the formatter and the type checker"
	@echo "make clean      remove the files of the other targets"

# scripts/setup.sh is fast if nothing has changed, and reports missing dependencies.
setup:
	@PYTHON=$(PYTHON) bash scripts/setup.sh
	@test -f .venv/body || { $(ENV) python -c "$$BUILD_BODY" && touch .venv/body; }

demo: setup
	$(ENV) python scripts/demo.py --out "$(OUT)" $(if $(VIDEO),--video "$(VIDEO)")

# Two processes with one thread each, for machines with two cores.
test: setup lint
	$(ENV) OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(ENV) python -m pytest -m slow

soak: setup
	$(ENV) SOAK_MINUTES="$(MINUTES)" SOAK_OUT=soak python -m pytest -s -m soak test/ros/test_soak.py

lint: setup
	$(ENV) ruff check .
	$(ENV) ruff format --check .
	$(ENV) mypy

clean:
	rm -rf .venv build install log demo soak *.egg-info
