# `make run` starts the app, `make test` checks it; each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run space test test-all doctest install install-dev browser lint bench gpu gpu-check gpu-bench wheel clean

run: install
	$(BIN)/python app.py

test: install-dev browser lint
	$(BIN)/python -m pytest
	$(MAKE) doctest

# Everything, also what looks at the same things once more in other lights, and what fetches a corpus.
test-all: install-dev browser lint
	$(BIN)/python -m pytest -m ""
	$(MAKE) doctest

# The examples in docstrings, in a process of their own: to find them is to import every module.
doctest: install-dev
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --doctest-modules -n 0 vitdemo

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

# Gradio writes stubs beside components while the app runs; mypy would read those instead of the code.
lint: install-dev
	find vitdemo -name '*.pyi' -delete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m vitdemo bench

# What only a GPU can show, into docs/benchmarks-gpu.md; it makes its own environment over PYTHON's, whose CUDA build of torch it
# keeps (docs/benchmarks.md). Each half takes ten minutes at most, and goes on where it was interrupted.
gpu: gpu-check gpu-bench

gpu-check:
	$(PYTHON) -m scripts.gpu check

gpu-bench:
	$(PYTHON) -m scripts.gpu bench

# dist/vitdemo-VERSION-py3-none-any.whl, which holds models and examples, and the source archive.
wheel: install-dev
	$(BIN)/python -m hatchling build

# dist/space, the folder that is pushed to a Hugging Face Space, checked; then installed and visited as one (docs/hosting.md).
space: install-dev browser
	$(BIN)/python -m scripts.space build dist/space
	$(BIN)/python -m pytest -n 0 -m "" tests/packaging/test_space_rehearsal.py

# The marks make a second run start in seconds: pip is asked again only when the lists change.
$(VENV)/.installed: requirements.txt constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-train.txt requirements-scale.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt
	touch $@

# Debian's Chromium where we may install it, else the one that Playwright brings.
browser: install-dev
	@test -x /usr/bin/chromium || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -q && apt-get install -y -q chromium; } || $(BIN)/python -m playwright install chromium

clean:
	rm -rf $(VENV) .venv-gpu dist .pytest_cache .mypy_cache .ruff_cache
