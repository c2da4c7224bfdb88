# make run    trains the pocket model on the King James Bible and ends with a table and a report
# make test   lint, types and every test
# Another python than python3: make PYTHON=/path/to/python3.11 run
PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := PYTHON="$(PYTHON)" sh scripts/environment.sh

.PHONY: run test lint env clean

run:
	@$(ENVIRONMENT) run
	$(BIN)/bytegolf train pocket --text kjv

# One thread a worker: two workers with a thread pool each would fight for the cores. Bytecode is kept, also
# where the environment says otherwise: the tests start Python some sixty times.
test: lint
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

env:
	@$(ENVIRONMENT) test

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
