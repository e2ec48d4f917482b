# make run     the main job: bring the stack up, run one container, leave nothing (needs root)
# make test    everything: style, units, integration, interop with the Go parts
# make soak    the same with the full counts: hundreds of kills, storms, fuzzing
# make bench   side by side with the Go parts (BENCH_ARGS=--quick: three minutes, shows that it works)
# make bench-readme  the figures of .cache/bench/latest.json, and of a second run, into README.md
# make lint    style only
# make test-images  what docker-compose.test.yml builds its images from
# make protos  compile the .proto files
# make venv    the virtualenv that the others use

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PROTOS := $(shell find protos -name '*.proto')
PYTEST := $(BIN)/pytest
WORKERS ?= 2

.PHONY: run test soak bench bench-readme lint format protos test-images venv clean

run: venv
	$(BIN)/longshore demo

# WORKERS=0: in one process, in the order of the files.
test: venv
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

soak: venv
	LONGSHORE_SOAK=1 $(PYTEST) -m 'not style' --timeout 7200 $(PYTEST_ARGS)

BENCH := .cache/bench
WITH_MATPLOTLIB = @$(BIN)/python -c 'import matplotlib' 2>/dev/null \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'

bench: venv
	$(WITH_MATPLOTLIB)
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

bench-readme: venv
	$(WITH_MATPLOTLIB)
	PYTHONPATH=tests $(BIN)/python -m bench --publish $(BENCH)/latest.json \
		$(if $(wildcard $(BENCH)/shims.json),--also $(BENCH)/shims.json) \
		$(if $(wildcard $(BENCH)/second.json),--second-run $(BENCH)/second.json)

lint: venv
	$(PYTEST) -q tests/unit/test_style.py

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-images: venv
	PYTHONPATH=tests $(BIN)/python -m support.compose .cache/compose

venv protos: $(VENV)/.stubs

# The build hook compiles the stubs too, but an editable install does not notice a change afterwards.
$(VENV)/.stubs: $(VENV)/.installed $(PROTOS) protos/compile.py
	$(BIN)/python protos/compile.py
	@touch $@

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "longshore needs Python 3.11 or newer as $(PYTHON) (or: make PYTHON=/path/to/python3 ...);" \
		          "this one is: $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "longshore needs venv and pip: on Debian, apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find protos \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' -o -name '*_pb2_grpc.pyi' \) -delete
