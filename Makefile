# One command each. Every target sets up .venv first, once; a second run starts at once.
PYTHON ?= $(shell for v in 11 12 13 14; do command -v python3.$$v && break; done || command -v python3)
BIN := .venv/bin
TEST_WORKERS ?= 2

.PHONY: setup demo demo-web web test check docs bench versions

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt setup.py $(wildcard src/cutaway/quant/native/cpp/*.cpp src/cutaway/quant/native/cpp/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "found $$($(PYTHON) --version); expected Python 3.11 or newer; run make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: setup
	$(BIN)/cutaway tour

PAGE := src/cutaway/apps/server/page/index.html

.venv/web-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[web]" --group web
	touch $@

$(PAGE): .venv/web-ready web/build.py web/package-lock.json $(shell find web/src web/public web/tests -type f) $(wildcard web/*.*)
	$(BIN)/python web/build.py

web: $(PAGE)

demo-web: web
	$(BIN)/cutaway serve

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

docs: .venv/docs-ready
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs --doctree-dir build/doctrees . build/site
	cp build/site/README.html build/site/index.html

bench: web
	for claim in start load quality instrument decode families every_type experts prefill attention beside_others trace transformer_lens page serve; do $(BIN)/python bench/$$claim.py || exit 1; done

versions:  # by hand: gigabytes, in environments of their own under .versions
	$(PYTHON) bench/versions.py
