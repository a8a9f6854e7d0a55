# Each target does its own set-up: on a fresh machine `make demo` or `make test` is the only command that you need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find kernels -name '*.cc' -o -name '*.h' -o -name '*.inc' 2>/dev/null) CMakeLists.txt

.PHONY: help install demo bench bench-serving bench-peers test test-settings test-slow test-ray test-arm wheels headers sanitize check format proto clean

help:
	@echo "make demo            train a nested checkpoint, serve it, load it, print the table, save demo.png"
	@echo "make install         .venv with everything, kernels built"
	@echo "make test            all tests (under 15 minutes on two cores)"
	@echo "make check           ruff, mypy, clang-format"
	@echo "make format          ruff and clang-format, in place"
	@echo "make bench           our kernels against dense ONNX Runtime; each row shows the ratio that it is to reach"
	@echo "make bench-peers     other engines on the same weights"
	@echo "make bench-serving   elastic beside fixed levels and SlackFit, under every trace and co-runner"
	@echo "make test-slow       the tests that take minutes each"
	@echo "make test-settings   all tests in each setting: instruction sets, cores, home, locale, order, an ordinary user (hours)"
	@echo "make test-ray        the tests of the cluster, on two replicas of Ray Serve in an environment of its own (.venv-ray)"
	@echo "make test-arm        the kernels' tests on an emulated Arm processor, and the limits of its ports"
	@echo "make wheels          wheels for x86-64 and aarch64 in dist/, and their tests on a bare system (needs root once, for Debian's packages)"
	@echo "make headers         ONNX Runtime's C++ headers, for docs/examples/cpp; make test tries it once"
	@echo "make sanitize        the kernels' tests under the address, undefined-behaviour and thread sanitizers"
	@echo "make proto           the files that are generated from the .proto file"
	@echo "make clean           remove build, dist and .venv"

install: $(VENV)/.installed $(VENV)/.built

demo: install
	$(BIN)/nested-sparse demo $(DEMO_ARGS)

bench: install
	$(BIN)/nested-sparse bench kernels --layers $(BENCH_ARGS)

bench-serving: install
	$(BIN)/nested-sparse bench serving $(BENCH_ARGS)

bench-peers: install
	$(BIN)/nested-sparse bench kernels --peers --rows 'peer-*' $(BENCH_ARGS)

test: install build/headers/.tried
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" -q $(TEST_ARGS)

test-settings: install
	tools/test_settings.sh $(abspath $(BIN)) $(SETTINGS) -- $(TEST_ARGS)

test-slow: install
	$(BIN)/python -m pytest -m slow -v

# Ray is large, and pins what it needs: it has an environment of its own, and is no part of `make install`.
test-ray: $(VENV)-ray/.installed
	$(VENV)-ray/bin/python -m pytest -v -s -p no:cacheprovider tests/serving/cluster/test_ray_serve.py $(TEST_ARGS)

$(VENV)-ray/.installed: pyproject.toml constraints.txt $(SOURCES) | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/pip install -q -c constraints.txt scikit-build-core cmake ninja
	$(VENV)-ray/bin/pip install -q -c constraints.txt --no-build-isolation -e ".[ray]" pytest hypothesis "tritonclient[grpc]"
	@touch $@

test-arm: install
	tools/test_arm.sh $(abspath $(BIN))

wheels: install
	tools/wheels.sh $(abspath $(BIN))

headers:
	tools/headers.sh

# Without them the tests of the C++ example are skipped.
build/headers/.tried:
	@tools/headers.sh || true
	@mkdir -p $(@D) && touch $@

sanitize: install
	tools/sanitize.sh $(abspath $(BIN))

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find kernels tests docs -name '*.cc' -o -name '*.h')

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find kernels tests docs -name '*.cc' -o -name '*.h')

proto: install
	$(BIN)/python -m nested_sparse.proto.build

clean:
	rm -rf build dist $(VENV) .venv-ray

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "nested-sparse needs Python 3.10 or newer: found $$($(PYTHON) --version 2>&1); try make PYTHON=python3.11" >&2; exit 1; }
	@for compiler in "$$CXX" c++ g++ clang++; do command -v "$$compiler" >/dev/null 2>&1 && exit 0; done; \
	  echo "nested-sparse needs a C++17 compiler: install g++ or clang++ (Debian: apt-get install g++), or set CXX" >&2; exit 1
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "could not make $(VENV): install Python's venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }

# The build tools are installed first, pinned like the rest. So the package is built in .venv, not in an environment of its own.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt scikit-build-core cmake ninja
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[train,bench,dev]"
	@touch $(VENV)/.installed $(VENV)/.built

$(VENV)/.built: $(SOURCES) | $(VENV)/.installed
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@
