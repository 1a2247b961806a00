# SPDX-License-Identifier: MIT
# `make episode` flies an episode with the simulated circuit; `make test` checks everything. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYNQ := build/pynq-3.1.2/installed build/pynq-4.0.0/installed

.PHONY: episode test lint

# options go in ARGS: make episode ARGS="--episodes 3 --video"
episode: $(VENV)/installed-episode
	$(BIN)/python host/run_episode.py $(ARGS)

test: lint $(PYNQ)
	$(BIN)/pytest -q -n 2 tests
	$(BIN)/pytest -q -n 2 sim

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# What a board gets, for tests/test_host_pynq.py: pynq wants an older numpy than training, and each version is its own.
build/pynq-%/installed: pyproject.toml .ci/requirements.py | $(VENV)/created
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/python .ci/requirements.py host board > $(@D)/requirements.txt
	$(BIN)/python -m pip --python $(@D)/bin/python install --disable-pip-version-check --no-compile \
		-r $(@D)/requirements.txt pynq==$* pytest==9.2.0
	touch $@

# A stamp per purpose. Only the dependencies are installed; the folders run in place.
$(VENV)/installed-episode: EXTRAS := host hw
$(VENV)/installed-test: EXTRAS := host hw meter train tensorboard nir vision notebook sim dev

$(VENV)/installed-%: pyproject.toml .ci/requirements.py | $(VENV)/created
	$(BIN)/python .ci/requirements.py $(EXTRAS) > $(VENV)/requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	touch $@
