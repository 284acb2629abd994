# `make` or `make help` lists what there is. Every target does its own set-up; nothing is left running.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := bash

RUN := .venv/bin
# What a target's program is given on its command line, as in: make chaos SEED=7 MINUTES=30
SEED ?=
MINUTES ?=
MESSAGES ?=
INPUTS ?=
ARGS ?=
OPTIONS = $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(MESSAGES),--messages $(MESSAGES)) \
  $(if $(INPUTS),--inputs $(INPUTS)) $(ARGS)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

.PHONY: setup
setup: .venv/.made ## make .venv with the worker and its tools (again only when pyproject.toml changes)

.venv/.made: pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup check
	@touch $@

.venv/.made-bench: .venv/.made
	@PYTHON="$(PYTHON)" .ci/setup check bench
	@touch $@

.venv/.made-desk: .venv/.made
	@PYTHON="$(PYTHON)" .ci/setup check desk-test
	@touch $@

.PHONY: native
native: .venv/.made-native ## compile what has a compiled form; without it everything works, with more processor time
	@find worker -name "*.so" -delete
	@$(RUN)/python hatch_build.py

.venv/.made-native: .venv/.made
	@PYTHON="$(PYTHON)" .ci/setup check native
	@touch $@

COMPILED_TESTS := $(patsubst %,tests/unit/test_%.py,activity_document amqp_bytes compiled_forms \
  compiled_frames hostile_headers identity message pipeline plain scan storing translate) \
  tests/compiled tests/integration/test_consumer.py tests/integration/test_publisher.py tests/integration/test_receipts.py
.PHONY: check-native
check-native: native ## the tests of what is compiled, and what uses it
	@$(RUN)/python -c 'from worker import compiled; assert compiled.bson and compiled.frames and compiled.scan, "not built"'
	@$(RUN)/pytest -q $(COMPILED_TESTS) $(ARGS)

.PHONY: wheel-native
wheel-native: .venv/.made-native ## build the wheel for this platform, with what is compiled in it
	@HATCH_BUILD_HOOKS_ENABLE=1 $(RUN)/python -m pip --disable-pip-version-check --quiet wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

.PHONY: demo
demo: .venv/.made ## watch activities of every kind travel, counted at the end (ARGS=--keep leaves it running)
	@$(RUN)/python -m tests.services.demo $(OPTIONS)

.PHONY: test
test: .venv/.made ## every test, against a real RabbitMQ and a MongoDB wire connection (ARGS="-k name" for some)
	@$(RUN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: check
check: .venv/.made ## lint, format, types, imports and the unit tests: seconds, no services
	@$(RUN)/ruff check
	@$(RUN)/ruff format --check
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@$(RUN)/pytest tests/unit -q $(ARGS)

.PHONY: format
format: .venv/.made ## format the code and repair what lint can repair safely
	@$(RUN)/ruff check --fix-only --quiet
	@$(RUN)/ruff format

.PHONY: schemas
schemas: .venv/.made ## write the documents of the public contract into schemas/ (a test sees that they are current)
	@$(RUN)/cim-worker schemas --output schemas

.PHONY: schemas-release
schemas-release: schemas ## keep the documents of this version in schemas/released/; later ones have to be compatible with them
	@folder=schemas/released/$$($(RUN)/python -c 'from worker.schemas import VERSION; print(VERSION)') && mkdir -p $$folder \
	  && cp schemas/*.schema.json schemas/asyncapi.json schemas/reasons.json $$folder

.PHONY: schemas-check
schemas-check: .venv/.made ## judge schemas/ with the official AsyncAPI parser and with Ajv (needs npm)
	@$(RUN)/python -m tests.asyncapi

.PHONY: desk-test
desk-test: .venv/.made-desk ## the desk's page in a real Chromium (apt installs it as root; PICTURES=1: those of deploy/desk.md anew)
	@$(RUN)/python -m tests.browser.chromium
	@$(RUN)/pytest tests/browser $(ARGS)

.PHONY: test-stores
test-stores: .venv/.made ## hold every MongoDB-like server that can be had here to the store's contract
	@$(RUN)/python -m tests.contract.store.every_server $(ARGS)

.PHONY: matrix
matrix: .venv/.made ## the tests on every broker, store, library and Python that can be had here (ARGS="--only NAME", --resume)
	@$(RUN)/python -m tests.matrix $(ARGS)

.PHONY: clients
clients: .venv/.made ## the publishers of schemas/examples/clients in Python, JavaScript, Go and Java, against a real worker
	@$(RUN)/pytest tests/clients -o faulthandler_timeout=900 $(ARGS)

.PHONY: wheel
wheel: .venv/.made ## build dist/*.whl: what another team installs to check its messages
	@$(RUN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

.PHONY: deploy-check
deploy-check: .venv/.made ## deploy/ against the real tools: image, compose, chart, rules, dashboard (ARGS=cluster: KEDA too)
	@$(RUN)/python -m tests.deployment $(ARGS)

.PHONY: chaos
chaos: .venv/.made ## faults at random times, then every message accounted for (SEED=, MINUTES=, MESSAGES=)
	@$(RUN)/python -m tests.chaos $(OPTIONS)

.PHONY: cluster
cluster: .venv/.made ## three nodes killed, frozen, cut off and drained, on each RabbitMQ there is (ARGS="--root FOLDER": another)
	@$(RUN)/python -m tests.cluster $(ARGS)

.PHONY: traces-check
traces-check: .venv/.made ## the traces of the real command in a real Jaeger (Go builds it once: ten minutes)
	@$(RUN)/pytest tests/tracing $(ARGS)

.PHONY: gateway-chaos
gateway-chaos: .venv/.made ## gateway, broker and workers killed under load; what was answered 200 is there (SEED=, MINUTES=)
	@$(RUN)/python -m tests.chaos.gateway $(OPTIONS)

.PHONY: gateway-check
gateway-check: .venv/.made ## schemathesis against a running gateway, by its own OpenAPI document (ARGS="--max-examples 60")
	@$(RUN)/pip install --quiet 'schemathesis>=4.3'
	@$(RUN)/python -m tests.acceptance.gateway_check $(ARGS)

.PHONY: gateway-bench
gateway-bench: .venv/.made-bench ## requests per second, beside the same endpoint as it is usually written
	@$(RUN)/python -m tests.benchmarks.gateway $(ARGS)

.PHONY: fuzz
fuzz: .venv/.made ## mutated and raw bytes: always an outcome, never an exception (SEED=, INPUTS=)
	@$(RUN)/python -m tests.fuzz $(OPTIONS)

.PHONY: answers-bench
answers-bench: .venv/.made-bench ## what receipts and the journal cost (ARGS=--days: what bad days of both do to the work)
	@$(RUN)/python -m tests.benchmarks.answers $(ARGS)

.PHONY: partitions-bench
partitions-bench: .venv/.made-bench ## what partitions of the ingress move, on one node and on three (ARGS="--nodes 3")
	@$(RUN)/python -m tests.benchmarks.partitions $(ARGS)

.PHONY: promises
promises: .venv/.made ## each promise of the desk broken once: does a test notice? (ARGS="letter cap": those with these words)
	@$(RUN)/python -m tests.promises $(ARGS)

.PHONY: desk-speed
desk-speed: .venv/.made-bench ## how fast the desk finds, plans and replays 100,000 letters (ARGS="--store memory --letters 20000")
	@$(RUN)/python -m tests.benchmarks.desk $(ARGS)

.PHONY: desk-page-speed
desk-page-speed: .venv/.made-bench ## how soon the desk's page answers while it replays 100,000 letters (ARGS="--store memory --seconds 20")
	@$(RUN)/python -m tests.benchmarks.desk_page $(ARGS)

.PHONY: bench
bench: .venv/.made-bench native ## compare with what others would use (ARGS=--quick: under two minutes)
	@$(RUN)/python -m tests.benchmarks $(OPTIONS)

.PHONY: clean
clean: ## remove .venv and everything that was made by tools
	@find worker -name "*.c" -delete -o -name "*.so" -delete
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	@rm -rf ./*.egg-info
