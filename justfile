# Stagebox recipes. `just` alone lists them.

set positional-arguments := true

python := justfile_directory() / ".venv/bin/python"
bin := justfile_directory() / ".venv/bin"
stamp := justfile_directory() / ".venv/.stagebox-installed"

# List the recipes
[private]
default:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# Show a live mixer and two racks in this terminal (--seconds N, --json)
[no-exit-message]
demo *args: install
    @PYTHONPATH=deploy {{ python }} -m demo "$@"

# Run the whole test suite (arguments go to pytest)
test *args: install
    @{{ python }} -m pytest "$@"

# Measure against the raw baselines and print tables (arguments name suites)
bench *args: install
    @PYTHONPATH=tests:deploy {{ python }} -m bench "$@"

# Measure every meter against its standard and write docs/reference/meter-conformance.md
conformance *args: install
    @PYTHONPATH=tests:deploy {{ python }} -m conformance.report "$@"

# Draw the plots of the guides again, from what the meters read
plots: install
    @PYTHONPATH=tests:deploy {{ python }} -m plots

# Check style and the import contracts
lint: install
    {{ bin }}/ruff check
    {{ bin }}/ruff format --check
    {{ bin }}/lint-imports --no-logo

# Check types strictly
types: install
    {{ bin }}/mypy shared/stagebox keys/stagebox_keys rack/stagebox_rack mixer/stagebox_mixer deploy/demo tests

# Format the code
fmt: install
    {{ bin }}/ruff check --fix
    {{ bin }}/ruff format

# Install pinned dependencies and the four distributions (editable) into .venv, if anything changed
install:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ ! -x {{ python }} ]; then
        echo "there is no .venv here: run  python3 -m venv .venv && .venv/bin/pip install -q rust-just" >&2
        exit 1
    fi
    {{ python }} -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Stagebox needs Python 3.11 or newer, .venv has $({{ python }} --version)" >&2
        exit 1
    }
    want=$(cat requirements.lock ./*/pyproject.toml | sha256sum)
    if [ -f {{ stamp }} ] && [ "$(cat {{ stamp }})" = "$want" ]; then
        exit 0
    fi
    echo "installing Stagebox and its pinned dependencies into .venv (once) ..." >&2
    {{ python }} -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
    {{ python }} -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        -e shared -e keys -e rack -e mixer
    echo "$want" > {{ stamp }}

# Pin the newest allowed dependencies again (rewrites requirements.lock)
lock *args: install
    {{ bin }}/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --no-header --no-annotate \
        --no-emit-package stagebox --no-emit-package stagebox-keys \
        --no-emit-package stagebox-rack --no-emit-package stagebox-mixer \
        --output-file requirements.lock "$@" requirements.in

# Remove what the recipes made, except .venv
clean:
    rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist demo-state
    find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
