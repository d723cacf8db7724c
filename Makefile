# Two commands: `make up` runs the console, `make test` runs the tests.
# Both need only Python >= 3.11; uv is used where it is found.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

PYTHONS := 3.11 3.12 3.13 3.14

.PHONY: up test test-fast test-pythons coverage check lock clean
.DELETE_ON_ERROR:

up: $(VENV)/$(if $(and $(DATABASE_URL),$(REDIS_URL)),production,embedded).stamp
	@exec $(BIN)/python manage.py up

test: $(VENV)/test.stamp
	$(BIN)/python -m tests.toolbox
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# What takes the console's own database only: see _is_fast in tests/conftest.py.
test-fast: $(VENV)/test.stamp
	$(BIN)/python -m pytest -m fast -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-pythons: $(PYTHONS:%=test-on-%)

test-on-%:
	@if python$* -c "" 2>/dev/null; then \
		$(MAKE) --no-print-directory test-fast PYTHON=python$* VENV=$(VENV)-$*; \
	else \
		echo "Python $* is not on this machine: skipped"; \
	fi

coverage: $(VENV)/test.stamp
	$(BIN)/python -m tests.floor

check: $(VENV)/test.stamp
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy opsconsole backups_app migrations_app
	$(BIN)/lint-imports
	git ls-files -z 'templates/*.html' | xargs -0 $(BIN)/djade --check
	$(BIN)/python manage.py makemigrations --check --dry-run

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ops Console needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
ifdef UV
	$(UV) venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/%.stamp: requirements/%.lock | $(VENV)/bin/python
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r $<
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
endif
	@touch $@

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras pyproject.toml -o requirements/production.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --extra embedded -c requirements/production.lock pyproject.toml -o requirements/embedded.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-strip-extras --extra embedded --extra test -c requirements/embedded.lock pyproject.toml -o requirements/test.lock

clean:
	rm -rf $(VENV) $(PYTHONS:%=$(VENV)-%) .mypy_cache .ruff_cache .pytest_cache
