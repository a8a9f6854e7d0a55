#!/bin/sh
# Runs tests/kernels over the operator library as built for gcc's sanitizers: `make sanitize`.
#
# First all of them with the address and undefined-behaviour sanitizers, without the search for leaks (Python and ONNX
# Runtime keep memory until they end); then those with threads with the thread sanitizer, whose reports of races between
# frames that are not ours are kept out by tools/tsan.supp. $1: the folder of the tools; the rest goes to pytest.
set -eu
cd "$(dirname "$0")/.."
tools=$1
shift

# $1: name of the build, $2: the sanitizers
build() {
  "$tools/cmake" -S . -B "build/sanitize/$1" -G Ninja -DCMAKE_MAKE_PROGRAM="$tools/ninja" -DCMAKE_CXX_COMPILER=g++ \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$2" >/dev/null
  "$tools/ninja" -C "build/sanitize/$1"
}

# $1: name of the build, $2: its run-time library; the rest goes to pytest
run() {
  library=$PWD/build/sanitize/$1/libnested_sparse_kernels.so
  runtime=$(g++ -print-file-name="$2")
  shift 2
  NESTED_SPARSE_LIBRARY=$library LD_PRELOAD="$runtime $(g++ -print-file-name=libstdc++.so.6)" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
    TSAN_OPTIONS="suppressions=$PWD/tools/tsan.supp ignore_noninstrumented_modules=1 halt_on_error=1" \
    "$tools/python" -m pytest -q -p no:cacheprovider "$@"
}

build address address,undefined,float-cast-overflow
run address libasan.so tests/kernels "$@"
build thread thread
run thread libtsan.so tests/kernels -k "threads or at_once or 2" "$@"
