# walcast: what people type. Each target first gets what it needs, and is quick when all is there.
#
#   make demo                 a throw-away Postgres, the relay and a conversation, in this terminal
#   make test                 everything: cargo's tests, then the published supabase-js and supabase-py against the binary
#   make test-postgres V=17   cargo's tests on another Postgres, 14 to 18
#   make lint                 formatting, clippy, rustdoc, and cargo-deny where it is installed

CARGO ?= cargo
V ?= 17

# npm writes this file last; newer than the lockfile means installed as locked.
JS = tests/js/node_modules/.package-lock.json
POSTGRES = tests/postgres/node_modules/.package-lock.json
PY = tests/py/.venv/installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rust test-js test-py test-postgres lint

help:
	@sed -n 's/^#   make/make/p' Makefile

setup:
	@.ci/setup compiler postgres node curl python
	@$(MAKE) --silent $(JS) $(PY)

%/node_modules/.package-lock.json: %/package-lock.json
	cd $* && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

$(PY): tests/py/requirements.txt
	python3 -m venv --clear tests/py/.venv
	tests/py/.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

demo: setup
	$(CARGO) run --quiet --bin walcast -- demo

test: setup test-rust test-js test-py

test-rust:
	$(CARGO) test

test-js: $(JS)
	$(CARGO) build --quiet --bin walcast --example throwaway_postgres
	cd tests/js && npm test --silent

test-py: $(PY)
	$(CARGO) build --quiet --bin walcast --example throwaway_postgres
	tests/py/.venv/bin/python -m unittest discover --start-directory tests/py

test-postgres:
	@.ci/setup compiler node
	@$(MAKE) --silent $(POSTGRES)
	PG_BIN_DIR=$$(tests/postgres/bin-dir $(V)) && export PG_BIN_DIR && "$$PG_BIN_DIR/postgres" --version && $(CARGO) test

lint:
	@.ci/setup compiler
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; \
	else echo "cargo-deny is not installed: the tests check licences, bans and sources; nobody checks advisories."; fi
