# Every target does its own set-up.  ARGS reaches the program behind it:
#   make test ARGS="-k replay"      make demo ARGS="--json out.json"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo factory test prove bench bench-policies bench-factory lint format schemas golden proto pins clean

demo: $(VENV)/ready
	$(BIN)/sluice demo $(ARGS)

factory: $(VENV)/ready
	$(BIN)/sluice factory $(ARGS)

# WORKERS=0 runs one test after the other, in this process.
WORKERS ?= auto
test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(ARGS)

# Speed and memory, judged by the goals; ARGS="--json FILE" collects all figures in one file.
bench: $(VENV)/ready
	for part in pipeline memory bus core exporter replay; do $(BIN)/sluice bench $$part $(ARGS) || exit 1; done

# Policies on real packets (root), about 28 minutes: a table, and the goals that learned meets.
bench-factory: $(VENV)/ready
	$(BIN)/sluice bench factory $(ARGS)

# Every policy on every scenario of the simulated plant.
bench-policies: $(VENV)/ready
	$(BIN)/sluice bench policies $(ARGS)

# What is proven of the shield and the fences, and that a broken shield does not pass.
prove: $(VENV)/ready
	$(BIN)/python -m tests.proof

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Records the golden recordings anew on real packets (root), where the control core was changed on purpose.
golden: $(VENV)/ready
	for policy in learned proportional; do \
	  $(BIN)/sluice factory --runs scrape --passive 0 --seconds 36 --policy $$policy \
	    --record tests/golden/factory-$$policy.jsonl.zst || exit 1; \
	done

# Writes schemas/*.json anew from the message types and the subjects.
schemas: $(VENV)/ready
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m services.bus.asyncapi

# Writes services/exporter/observer_pb2.* anew from observer.proto.
proto: $(VENV)/ready
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. services/exporter/observer.proto

# Pins every dependency with hashes, for all platforms and Pythons from 3.11 on; PINARGS=--upgrade renews them.
PINARGS ?=
PIN := $(BIN)/uv pip compile $(PINARGS) --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins" pyproject.toml
pins: $(VENV)/ready
	$(PIN) --extra exporter -o requirements/services.txt
	$(PIN) --extra exporter --extra factory -o requirements/plant.txt
	$(PIN) --all-extras -o requirements/dev.txt

$(VENV)/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
