# The words of this repository. Each sets up .venv by itself the first time and after a change of what is installed.
#
#   make demo     the whole method, end to end       ARGS="--seed 1" goes to `twinrl demo`
#   make test     the test suite                     ARGS="tests/twin -k scan" goes to pytest
#   make outcome  a small run learns what it should, and a lab with a person goes from photos to the report
#   make fuzz     damage the input of every reader of files  ARGS="--targets spz --cases 1000"
#   make check    lint, types, layers, compose file
#   make format   rewrite the sources in house style
#   make protos   regenerate the protobuf code
#   make clean    remove .venv and all caches; runs/ stays

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MESSAGES := $(wildcard protos/*.proto) learner/datasets/rlds/example.proto
SERVICES := protos/weights.proto protos/guide.proto
PROTOC := $(BIN)/python -m grpc_tools.protoc -I .

# Modules are compiled when they are first imported, and kept: a third of an installation went into those that never are.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test outcome fuzz check format protos clean

demo: $(INSTALLED)
	$(BIN)/twinrl demo $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

outcome: $(INSTALLED)
	$(BIN)/python -m pytest -n 0 tests/outcome.py tests/actors/lab_outcome.py $(ARGS)

fuzz: $(INSTALLED)
	$(BIN)/python tests/fuzz/run.py $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_compose.py docker-compose.yml

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(INSTALLED)
	$(PROTOC) --python_out=. --pyi_out=. $(MESSAGES)
	$(PROTOC) --grpc_python_out=. $(SERVICES)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "TwinRL needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@
