# Every target does its own set-up.  ARGS reaches the program behind it:
#   make test ARGS="-k replay"      make demo ARGS="--json out.json"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Where `make install` puts sluice: PREFIX/bin/sluice, in an environment of its own below PREFIX/share.
PREFIX ?= $(HOME)/.local
INSTALLED := $(abspath $(PREFIX))/share/sluice
BINDIR := $(abspath $(PREFIX))/bin
LINK := $(BINDIR)/sluice
# What `make demo` and `make factory` run in: the developers' environment where there is one, else a small one.
RUN := $(if $(wildcard $(VENV)/ready),$(VENV),.venv-run)
# Compiled once, for a quick start of every command, but for the 1,500 types of Kubernetes's client that are never loaded.
UNCOMPILED := /kubernetes/(aio/)?client/(api|models)/(?!__init__)
PIP := pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile

.PHONY: demo factory install uninstall test prove bench bench-policies bench-factory lint format schemas docs golden proto pins clean

demo: $(RUN)/ready
	@mkdir -p out
	$(RUN)/bin/sluice demo --record out/demo.rec $(ARGS)

factory: $(RUN)/ready
	$(RUN)/bin/sluice factory $(ARGS)

# Puts `sluice` on PATH with what its commands need, no test tools: make install PREFIX=/usr/local.
install:
	@test "$(PREFIX)" != /.local || { echo "There is no HOME; say where: make install PREFIX=FOLDER"; exit 1; }
	@test ! -e $(LINK) -o "$$(readlink $(LINK))" = $(INSTALLED)/bin/sluice || \
	  { echo "$(LINK) is not from here; remove it first, or choose another PREFIX"; exit 1; }
	@echo "Installing sluice into $(INSTALLED), half a minute and more ..."
	@$(PYTHON) -m venv --clear $(INSTALLED)
	@$(INSTALLED)/bin/$(PIP) --require-hashes -r requirements/cli.txt
# Built from a copy: setuptools would install what an earlier build left in the checkout.
	@mkdir $(INSTALLED)/source && cp -r pyproject.toml README.md LICENSE schemas services $(INSTALLED)/source
	@$(INSTALLED)/bin/$(PIP) --no-deps --no-build-isolation $(INSTALLED)/source
	@rm -rf $(INSTALLED)/source
	@$(INSTALLED)/bin/python -m compileall -q -j 0 $(INSTALLED)/lib -x '$(UNCOMPILED)'
	@mkdir -p $(BINDIR)
	@ln -sf $(INSTALLED)/bin/sluice $(LINK)
	@echo "Linked $(LINK) to it; make uninstall removes both."
	@case ":$$PATH:" in *":$(BINDIR):"*) echo "$(BINDIR) is on PATH: try sluice --help";; \
	  *) echo "$(BINDIR) is not on PATH.  For this shell:"; echo '    export PATH="$(BINDIR):$$PATH"';; esac

uninstall:
	@if [ "$$(readlink $(LINK))" = $(INSTALLED)/bin/sluice ]; then rm $(LINK); echo "Removed $(LINK)"; fi
	@if [ -e $(INSTALLED)/pyvenv.cfg ]; then rm -rf $(INSTALLED); echo "Removed $(INSTALLED)"; fi

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

# Writes schemas/*.json and docs/reference/*.md anew from the code.
schemas: $(VENV)/ready
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m services.bus.asyncapi
	$(BIN)/python docs/generate.py

# Builds the documentation as a site in build/docs; a dead link or a page that nothing leads to is an error.
docs: .venv-docs/ready
	.venv-docs/bin/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "Open build/docs/index.html"

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
	$(PIN) --extra build --extra exporter --extra factory --extra report -o requirements/cli.txt
	$(PIN) --all-extras -o requirements/dev.txt
	$(PIN:pyproject.toml=--group docs) -o requirements/docs.txt

$(VENV)/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv-run/ready: requirements/cli.txt pyproject.toml
	@echo "Setting up .venv-run, once ..."
	@$(PYTHON) -m venv .venv-run
	@.venv-run/bin/$(PIP) --require-hashes -r requirements/cli.txt
	@.venv-run/bin/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-docs/ready: requirements/docs.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/$(PIP) --require-hashes -r requirements/docs.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-run .venv-docs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
