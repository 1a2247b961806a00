# SPDX-License-Identifier: MIT
# `make episode` flies an episode with the simulated circuit; `make test` checks everything. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: episode test lint

# options go in ARGS: make episode ARGS="--episodes 3 --video"
episode: $(VENV)/installed-episode
	$(BIN)/python host/run_episode.py $(ARGS)

test: lint
	$(BIN)/pytest -q -n 2 tests
	$(BIN)/pytest -q -n 2 sim

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# A stamp per purpose. Only the dependencies are installed; the folders run in place.
$(VENV)/installed-episode: EXTRAS := host hw
$(VENV)/installed-test: EXTRAS := host hw meter train tensorboard nir notebook sim dev

$(VENV)/installed-%: pyproject.toml .ci/requirements.py | $(VENV)/created
	$(BIN)/python .ci/requirements.py $(EXTRAS) > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	touch $@
