# make demo | test | test-unit | lint: each installs what it needs first; a second run finds everything in place.
.PHONY: demo test test-unit test-versions torture bench bench-page dashboard docs lint format lock wheel venv tools clean

VENV = .venv/bin
PYTEST = $(VENV)/python -m pytest
# For test-versions: embedded-postgres' versions on Maven Central. They have pgoutput and no wal2json.
VERSIONS = 14.15.0 16.6.0 17.7.0 18.1.0
# The oldest and the newest are part of every test run.
ENDS = $(firstword $(VERSIONS)) $(lastword $(VERSIONS))

# All at once, as they wait more than they work; each one's output when all have ended.
define on_versions
mkdir -p build; rm -f build/postgres-*.log; \
for version in $(1); do $(PYTEST) --postgres=$$version >build/postgres-$$version.log 2>&1 & all="$$all $$!"; done; \
failed=0; for each in $$all; do wait $$each || failed=1; done; \
for version in $(1); do echo "PostgreSQL $$version"; cat build/postgres-$$version.log; done; exit $$failed
endef

demo:
	@tools/install.sh demo
	@tools/venv.sh
	@$(VENV)/walrus-bridge demo

test:
	@POSTGRES_VERSIONS="$(ENDS)" tools/install.sh tests
	@tools/venv.sh
	@$(call on_versions,$(ENDS))
	$(PYTEST) --numprocesses 2 --dist loadfile

test-unit: venv
	$(PYTEST) tests/unit

test-versions:
	@POSTGRES_VERSIONS="$(VERSIONS)" tools/install.sh tests
	@tools/venv.sh
	@$(call on_versions,$(VERSIONS))

# Everything dies while random transactions run: TARGET is kafka, rabbitmq or exactly-once.
torture:
	@tools/install.sh tests
	@tools/venv.sh
	@$(VENV)/python -m tests.torture $(or $(TARGET),kafka) $(or $(SECONDS),60) $(or $(SEED),$(shell date +%s))

# Ratios, all in one run: MODE is quick (3 minutes) or full; ONLY some of throughput,stages,rls,latency,startup; ROWS; OUT.
bench:
	@tools/install.sh tests
	@tools/venv.sh
	@MODE=$(MODE) ONLY=$(ONLY) ROWS=$(ROWS) OUT=$(OUT) $(VENV)/python -m tests.benchmarks

# docs/performance.md and its picture, from what `make bench` has written.
bench-page: venv
	@$(VENV)/python -m tests.benchmarks.page $(or $(OUT),bench.json)

# docs/dashboard.svg, from what the Grafana dashboard's queries give of a bridge at work; takes three minutes.
dashboard:
	@tools/install.sh tests
	@tools/venv.sh
	@$(VENV)/python -m tests.dashboard

# The docs as a site, in build/site.
docs: venv
	@NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

lint: venv
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

format: venv
	$(VENV)/ruff check --fix
	$(VENV)/ruff format

venv:
	@tools/install.sh python
	@tools/venv.sh

tools:
	@tools/install.sh tests
	@tools/venv.sh

wheel: venv
	$(VENV)/python -m build --no-isolation

# The lock: everything that development and tests need, with hashes, for all supported Pythons.
lock: venv
	$(VENV)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --allow-unsafe --extra dev --all-build-deps --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
