# Every target does its own set-up.  ARGS is passed to the program that it runs:
#   make test ARGS="-k replay"      make demo ARGS="--json out.json"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# `make install` links PREFIX/bin/sluice to a virtual environment below PREFIX/share.
PREFIX ?= $(HOME)/.local
INSTALLED := $(abspath $(PREFIX))/share/sluice
BINDIR := $(abspath $(PREFIX))/bin
LINK := $(BINDIR)/sluice
# kubectl runs it as `kubectl sluice`.
PLUGIN := $(BINDIR)/kubectl-sluice
# `make demo` and `make factory` use the developers' environment if it exists, otherwise a small one.
RUN := $(if $(wildcard $(VENV)/ready),$(VENV),.venv-run)
# Installed code is compiled once, so that commands start quickly, except for 1,500 types of Kubernetes's client that are
# never loaded.
UNCOMPILED := /kubernetes/(aio/)?client/(api|models)/(?!__init__)
# A test run starts hundreds of processes, each of which would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE
PIP := pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile
# $(call require,VENV,FILE) installs pinned packages: by uv, if it is on PATH, in a tenth of the time; by pip, if uv is not
# there or does not reach an index (it knows nothing of pip's settings).
UV ?= $(shell command -v uv 2> /dev/null)
require = $(if $(UV),$(UV) pip install --quiet --python $(1)/bin/python --require-hashes -r $(2) 2> /dev/null ||) \
	$(1)/bin/$(PIP) --require-hashes -r $(2)

.PHONY: demo factory install uninstall test attack fuzz refusals prove bench bench-policies bench-factory lint format \
	schemas docs golden proto pins wheel image sbom audit-pins digests clean

demo: $(RUN)/ready
	@mkdir -p out
	$(RUN)/bin/sluice demo --record out/demo.rec $(ARGS)

factory: $(RUN)/ready
	$(RUN)/bin/sluice factory $(ARGS)

# Installs `sluice` and the dependencies of its commands, without test tools: make install PREFIX=/usr/local.
install:
	@test $(words $(PREFIX)) = 1 || { echo "PREFIX must not contain spaces: $(PREFIX)"; exit 1; }
	@test ! -e $(INSTALLED) -o -e $(INSTALLED)/pyvenv.cfg || { echo "$(INSTALLED) is not from here"; exit 1; }
	@test "$(PREFIX)" != /.local || { echo "HOME is not set; choose a folder: make install PREFIX=FOLDER"; exit 1; }
	@test ! -e $(LINK) -o "$$(readlink $(LINK))" = $(INSTALLED)/bin/sluice || \
	  { echo "$(LINK) was not installed from here; remove it first, or choose another PREFIX"; exit 1; }
	@echo "Installing sluice into $(INSTALLED), half a minute and more ..."
	@$(PYTHON) -m venv --clear $(INSTALLED)
	@$(call require,$(INSTALLED),requirements/cli.txt)
# Build from a copy: setuptools would install files that an earlier build left in the checkout.
	@mkdir $(INSTALLED)/source && cp -r pyproject.toml README.md LICENSE schemas services $(INSTALLED)/source
	@$(INSTALLED)/bin/$(PIP) --no-deps --no-build-isolation $(INSTALLED)/source
	@rm -rf $(INSTALLED)/source
	@$(INSTALLED)/bin/python -m compileall -q -j 0 $(INSTALLED)/lib -x '$(UNCOMPILED)'
	@mkdir -p $(BINDIR)
	@ln -sf $(INSTALLED)/bin/sluice $(LINK)
	@ln -sf $(INSTALLED)/bin/kubectl-sluice $(PLUGIN)
	@echo "Linked $(LINK) and $(PLUGIN) to it; make uninstall removes all."
	@case ":$$PATH:" in *":$(BINDIR):"*) echo "$(BINDIR) is on PATH: try sluice --help";; \
	  *) echo "$(BINDIR) is not on PATH.  For this shell:"; echo '    export PATH="$(BINDIR):$$PATH"';; esac

uninstall:
	@for link in $(LINK) $(PLUGIN); do if [ "$$(readlink $$link)" = $(INSTALLED)/bin/$${link##*/} ]; then \
	  rm $$link; echo "Removed $$link"; fi; done
	@if [ -e $(INSTALLED)/pyvenv.cfg ]; then rm -rf $(INSTALLED); echo "Removed $(INSTALLED)"; fi

# Two workers for each processor.  WORKERS=0 runs the tests one after another, in this process.
WORKERS ?= auto
test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) $(ARGS)

# Attacks the real parts in full size, about 10 minutes; ARGS="--json FILE" writes the table to a file.
attack: $(VENV)/ready
	$(BIN)/python -m tests.attack $(ARGS)

# Ten thousand pages, answers and API replies, about 15 minutes; EXAMPLES sets another number.
EXAMPLES ?= 10000
fuzz: $(VENV)/ready
	SLUICE_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -s tests/integration/sampler/test_same_bytes.py \
	  tests/integration/sampler/test_answer_fuzz.py tests/integration/actuator/test_reply_fuzz.py \
	  tests/property/test_parser.py tests/property/test_counter_trail.py $(ARGS)

# How often a refusing API server is asked in an hour of simulated time, by kind of refusal; about 5 minutes.
refusals: $(VENV)/ready
	SLUICE_SIMULATED_S=3600 $(BIN)/python -m pytest -s tests/integration/actuator/test_refusal_rates.py $(ARGS)

# Measures speed and memory, and compares them with the goals; ARGS="--json FILE" collects all figures in one file.
bench: $(VENV)/ready
	for part in pipeline memory bus core exporter replay; do $(BIN)/sluice bench $$part $(ARGS) || exit 1; done

# Runs policies on real packets (root), about 28 minutes; prints a table and the goals that learned meets.
bench-factory: $(VENV)/ready
	$(BIN)/sluice bench factory $(ARGS)

# Runs every policy on every scenario of the simulated plant.
bench-policies: $(VENV)/ready
	$(BIN)/sluice bench policies $(ARGS)

# Proves the claims about the shield and the fences, and shows that a broken shield fails.
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

# Replaces the golden recordings by new ones on real packets (root), after an intended change of the control core.
golden: $(VENV)/ready
	for policy in learned proportional; do \
	  $(BIN)/sluice factory --runs scrape --passive 0 --seconds 36 --policy $$policy \
	    --record tests/golden/factory-$$policy.jsonl.zst || exit 1; \
	done

# Generates schemas/*.json, docs/reference/*.md and the dashboards from the code.
schemas: $(VENV)/ready
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m services.bus.asyncapi
	$(BIN)/python -m services.resources.crd
	$(BIN)/python -m services.ui.openapi
	$(BIN)/python docs/generate.py
	$(BIN)/python manifests/components/dashboards/generate.py

# Builds the documentation as a site in build/docs; a dead link or an unlinked page is an error.
docs: .venv-docs/ready
	.venv-docs/bin/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "Open build/docs/index.html"

# Generates services/exporter/observer_pb2.* from observer.proto.
proto: $(VENV)/ready
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. services/exporter/observer.proto

# Pins every dependency with hashes, for all platforms and Python 3.11 or later; PINARGS=--upgrade upgrades them.
PINARGS ?=
PIN := $(BIN)/uv pip compile $(PINARGS) --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make pins" pyproject.toml
pins: $(VENV)/ready
	$(PIN) --extra exporter -o requirements/services.txt
	$(PIN) --extra exporter --extra factory -o requirements/plant.txt
	$(PIN) --extra build --extra exporter --extra factory --extra report -o requirements/cli.txt
	$(PIN) --all-extras -o requirements/dev.txt
	$(PIN:pyproject.toml=--group docs) -o requirements/docs.txt
	$(PIN:pyproject.toml=--group audit) -o requirements/audit.txt

# Times in the wheel and in the image are those of the last commit.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2> /dev/null || echo 1700000000)
WHEELS ?= build/wheel

# Builds the wheel; the same sources give the same bytes.
wheel: $(VENV)/ready
	@rm -rf $(WHEELS)/source && mkdir -p $(WHEELS)/source
	@cp -r pyproject.toml README.md LICENSE schemas services $(WHEELS)/source
	@find $(WHEELS)/source -name __pycache__ -prune -exec rm -r {} +
	@chmod -R u=rwX,go=rX $(WHEELS)/source
	@cd $(WHEELS)/source && umask 022 && $(abspath $(BIN))/python -W ignore -c \
	  'from setuptools import build_meta; print("Built", build_meta.build_wheel(".."))' > ../log 2>&1 || { cat ../log; exit 1; }
	@tail -n 1 $(WHEELS)/log && rm -r $(WHEELS)/source $(WHEELS)/log

# Builds the image of the services with a fixed time in every layer (BuildKit 0.13 or later).
image:
	@docker buildx version > /dev/null 2>&1 || { echo "make image needs docker with buildx"; exit 2; }
	docker buildx build --target sluice --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) --provenance=false \
	  --output type=oci,dest=build/sluice.oci.tar,rewrite-timestamp=true $(ARGS) .
	sha256sum build/sluice.oci.tar

# Writes bills of material of the image and of the commands, as CycloneDX JSON.
sbom: .venv-audit/ready
	@mkdir -p build/sbom
	@for part in services cli; do \
	  .venv-audit/bin/python -W ignore -m cyclonedx_py requirements requirements/$$part.txt --pyproject pyproject.toml \
	    --output-reproducible --output-format JSON --output-file build/sbom/$$part.cdx.json || exit 1; \
	  echo "Wrote build/sbom/$$part.cdx.json"; \
	done

# Asks for known vulnerabilities of every pin, and prints what could not be asked about.
audit-pins: .venv-audit/ready
	@failed=0; for file in requirements/*.txt; do \
	  echo "== $$file"; \
	  .venv-audit/bin/pip-audit --requirement $$file --require-hashes --disable-pip --progress-spinner off $(ARGS) \
	    > build/audit.log 2>&1 || failed=1; \
	  grep -v "Dependency not found" build/audit.log; \
	  echo "not checked: $$(grep -c 'could not be audited' build/audit.log) of $$(grep -c == $$file) pins"; \
	done; exit $$failed

# Pins the digests of base images in Dockerfile, Compose and manifests, as far as their registries can be reached.
digests:
	$(PYTHON) requirements/pin_images.py $(ARGS)

$(VENV)/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(call require,$(VENV),requirements/dev.txt)
	$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

.venv-run/ready: requirements/cli.txt pyproject.toml
	@echo "Setting up .venv-run, once ..."
	@$(PYTHON) -m venv .venv-run
	@$(call require,.venv-run,requirements/cli.txt)
	@.venv-run/bin/$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv-docs/ready: requirements/docs.txt
	@$(PYTHON) -m venv .venv-docs
	@$(call require,.venv-docs,requirements/docs.txt)
	@touch $@

.venv-audit/ready: requirements/audit.txt
	@$(PYTHON) -m venv .venv-audit
	@$(call require,.venv-audit,requirements/audit.txt)
	@touch $@

clean:
	rm -rf $(VENV) .venv-run .venv-docs .venv-audit build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
