# Every target sets up what it needs in a virtual environment of its own, and is quick when nothing changed.
#   make test VENV=/tmp/venv      another place for it
#   make test TORCH=torch==2.12.0 another torch
#   make test ARGS="tests/test_layout.py -x"
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTHON ?=
WORKERS ?= 2
ARGS ?=

PY := $(VENV)/bin/python
export VENV TORCH PYTHON

# One torch thread a process: with several processes on few cores more are far slower. EGL renders without a display.
RUN = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} MUJOCO_GL=$${MUJOCO_GL:-egl} $(PY)

.PHONY: help setup demo test check bench clean distclean

help:
	@echo "make demo       demonstrations, offline training, online fine-tuning and a report, in minutes"
	@echo "make test       the tests"
	@echo "make check      lint, format, types, then the tests"
	@echo "make bench      the benchmarks"
	@echo "make setup      only the virtual environment ($(VENV))"
	@echo "make clean      remove caches and build products; make distclean: the virtual environment too"

setup:
	@.ci/setup

demo: setup
	@$(RUN) -m robot_rl.apps.demo $(ARGS)

test: setup
	@$(RUN) -m pytest -n $(WORKERS) $(ARGS)

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory test

bench: setup
	@for file in benchmarks/*.py; do \
	  if [ ! -e "$$file" ]; then echo "there are no benchmarks"; break; fi; \
	  echo "== $$file"; $(RUN) "$$file" $(ARGS) || exit 1; \
	done

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	if [ -f '$(VENV)/robot_rl.stamp' ]; then rm -rf '$(VENV)'; fi
