# The two commands of the README, and the fast check. Each works on a fresh machine: .venv is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test install lint types check

quickstart: .venv/installed
	$(BIN)/terrazzo train pets_quickstart
	$(BIN)/terrazzo evaluate runs/pets_quickstart
	$(BIN)/terrazzo predict runs/pets_quickstart examples/pets/images/Bengal_185.jpg --out predictions
	@echo "Open runs/pets_quickstart/report.html in a browser; masks are in predictions/."

test: .venv/installed lint types
	$(BIN)/python -m pytest -n auto

check: lint types
	$(BIN)/python -m pytest -n auto -m "not slow"

install: .venv/installed

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev,pack,transformers,search,tensorboard,wandb,mlflow,8bit]"
	touch .venv/installed
