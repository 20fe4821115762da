# make run   set up once, then the default job, full against partial retraining          make test   every check
# Needs Python >= 3.11 and make; nothing else. Pass overrides with ARGS: make run ARGS="strategy=ewc seed=3"
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?= -m strategy=finetune,partial tracking=none

.PHONY: run test test-slow campaign lint check bench clean

run: $(VENV)/.ready
	$(BIN)/python run.py $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow

campaign: $(VENV)/.ready
	FROSTLINE_CAMPAIGN=1 $(BIN)/python -m pytest tests/campaign -m "slow or not slow" --timeout 7200

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/speed/loops.py
	$(BIN)/python benchmarks/speed/seeds.py
	$(BIN)/python benchmarks/speed/partial.py
	$(BIN)/python benchmarks/speed/sweep.py
	$(BIN)/python benchmarks/speed/start.py
	$(BIN)/python benchmarks/growth/growth.py

clean:
	rm -rf $(VENV)

# The marker is written last, so an interrupted installation starts again.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'frostline needs Python >= 3.11, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,text,vision,huggingface,lightning,onnx,harness,quantised]'
	@touch $@
