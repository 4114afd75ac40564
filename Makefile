# make demo | test | test-unit | lint: each installs what it needs first; a second run finds everything in place.
.PHONY: demo test test-unit test-versions lint format lock wheel tools clean

VENV = .venv/bin
PYTEST = $(VENV)/python -m pytest

demo:
	@tools/install.sh demo
	@tools/venv.sh
	@$(VENV)/walrus-bridge demo

test: tools
	$(PYTEST)

test-unit:
	@tools/venv.sh
	$(PYTEST) tests/unit

test-versions:
	@POSTGRES_VERSIONS="14.15.0 16.6.0 17.7.0 18.1.0" tools/install.sh tests
	@tools/venv.sh
	$(PYTEST) -m versions --versions=all

lint:
	@tools/venv.sh
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy

format:
	@tools/venv.sh
	$(VENV)/ruff check --fix
	$(VENV)/ruff format

tools:
	@tools/install.sh tests
	@tools/venv.sh

wheel:
	@tools/venv.sh
	$(VENV)/python -m build --no-isolation

# The lock: everything that development and tests need, with hashes, for all supported Pythons.
lock:
	@tools/venv.sh
	$(VENV)/pip-compile --quiet --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --allow-unsafe --extra dev --all-build-deps --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
