# make demo    draw with the bundled model in few steps and in many, side by side
# make test    all tests          make check   linter, formatter, type checker
# make clean   removes what was built; outputs/ and runs/ stay
#
# Everything is installed into .venv by the first command. PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

.PHONY: demo test check format strip clean

# PROMPT="..." make demo draws your own prompt.
demo: $(READY)
	@$(BIN)/hypersd demo $${PROMPT:+--prompt "$$PROMPT"}

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The picture on top of the README.
strip: $(READY)
	@$(BIN)/hypersd demo --strip docs/images/strip.webp

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hypersd needs Python 3.11 or newer, and $(PYTHON) is not that: try PYTHON=python3.12 make" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .mypy_cache hyper_sd.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
