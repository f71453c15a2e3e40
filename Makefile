PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test fuzz nightly lint types bench docs clean

# How long `make nightly` may take, roughly: a third of it is the soak, the rest is random runs and fuzzing.
NIGHTLY_MINUTES ?= 480

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "relayproxy needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/relayproxy demo

test: $(STAMP)
	$(BIN)/pytest

fuzz: $(STAMP)
	RELAYPROXY_FUZZ=20000 $(BIN)/pytest tests/fuzz

# What takes too long for every change; docs/reliability.md says what each shows. NIGHTLY_MINUTES=10 is a rehearsal.
nightly: $(STAMP)
	NIGHTLY_MINUTES=$(NIGHTLY_MINUTES) RELAYPROXY_CRASHES=$(NIGHTLY_MINUTES) $(BIN)/pytest tests/nightly \
	  tests/spool/test_crash.py tests/spool/test_failpoints.py tests/spool/test_faults.py tests/spool/test_power.py \
	  tests/spool/test_postgres_nodes.py tests/spool/test_model.py tests/integration/test_queue_kills.py
	RELAYPROXY_FUZZ=$$(( $(NIGHTLY_MINUTES) * 50 )) $(BIN)/pytest tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench

docs: $(STAMP)
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
