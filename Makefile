# `make demo` and `make test` do all the set-up on a fresh machine: they need Python 3.11 or newer, nothing else.

PYTHON ?= python3
VIDEOS ?=
OUT ?=
RUN ?=
BIN := .venv/bin

# threads that wait by spinning make everything ten times slower as soon as something else runs on the machine
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-others test-pages test-videos test-compile test-all check docs figures results format clean

demo: .venv/installed
	$(BIN)/tubelet demo $(if $(OUT),--out "$(OUT)") $(if $(VIDEOS),--videos "$(VIDEOS)")

# two processes, since nearly all of it runs on one core; what each says is shown when it has ended
test: .venv/installed-dev
	$(MAKE) --jobs 2 --keep-going --output-sync=target --no-print-directory test-others test-pages test-videos test-compile

PAGES := tests/web tests/test_docs.py tests/test_site.py tests/test_examples.py tests/test_plugins.py

test-others:
	$(BIN)/python -m pytest --ignore=tests/data $(addprefix --ignore=,$(PAGES))

# what is written and shown: every block of the docs is run, and the web page used in a browser
test-pages:
	$(BIN)/python -m pytest $(PAGES)

test-videos:
	$(BIN)/python -m pytest tests/data

test-compile:
	JAXTYPING_DISABLE=1 $(BIN)/python -m pytest -m compile $$(grep -rl --include='*.py' 'mark\.compile' tests)

# besides: every preset of every method, where `make test` takes the first of each
test-all: test
	$(BIN)/python -m pytest -m every $$(grep -rl --include='*.py' 'mark\.every' tests)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# the pages of docs/ as a site, in site/; a warning (a dead link, a page that nothing leads to) is an error
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# the pictures of docs/pictures/ from films with a free licence, a run of videomae-small-cpu, and benchmarks/ratio_gestures.csv
figures: .venv/installed-dev
	$(BIN)/python benchmarks/figures.py --videos "$(VIDEOS)" --weights "$(RUN)"

# the tables of docs/results.md from filmed videos; interrupt it and repeat: what is done is not done again
results: .venv/installed-dev
	$(BIN)/python benchmarks/gestures.py --videos "$(VIDEOS)"

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist site src/*.egg-info

# torch first and by itself: its version is pinned, and a range would let pip take a build with gigabytes of CUDA. Where
# the package index has no other build (README), PIP_EXTRA_INDEX_URL names one that has.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "tubelet needs Python 3.11 or newer; choose one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
