# make t2v    set up .venv, install, run the main job
# make test   set up, run all tests
# make check  set up, lint, format check, types
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: t2v test check format setup clean

t2v: $(READY)
	$(BIN)/accelerate launch suite.py --workload t2v

test: $(READY)
	$(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Triptych needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache
