#!/bin/sh
# Runs the operators as built for gcc's sanitizers: `make sanitize`.
#
# First all of tests/kernels with the address and undefined-behaviour sanitizers, without the search for leaks (Python and
# ONNX Runtime keep memory until they end); then tests/kernels/threads.cc, which says why it is no Python, with the thread
# sanitizer. $1: the folder of the tools (cmake, ninja, python); the rest goes to pytest.
set -eu
cd "$(dirname "$0")/.."
tools=$1
shift

# $1: name of the build, $2: the sanitizers
build() {
  "$tools/cmake" -S . -B "build/sanitize/$1" -G Ninja -DCMAKE_MAKE_PROGRAM="$tools/ninja" -DCMAKE_CXX_COMPILER=g++ \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all $2" >/dev/null
  "$tools/ninja" -C "build/sanitize/$1" -t cleandead >/dev/null  # objects of sources that were renamed since
  "$tools/ninja" -C "build/sanitize/$1"
}

build address "-fsanitize=address,undefined,float-cast-overflow"
NESTED_SPARSE_LIBRARY=$PWD/build/sanitize/address/libnested_sparse_kernels.so ASAN_OPTIONS=detect_leaks=0 \
  UBSAN_OPTIONS=print_stacktrace=1 \
  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)" \
  "$tools/python" -m pytest -q -p no:cacheprovider -p no:faulthandler tests/kernels "$@"

build thread -fsanitize=thread
cd build/sanitize/thread
g++ -std=c++17 -O1 -g -fsanitize=thread -I../../../kernels ../../../tests/kernels/threads.cc \
  $(find CMakeFiles/nested_sparse_kernels.dir -name '*.o') -o threads
for isa in $("$tools/python" -c 'from nested_sparse.kernels.library import kernels
from nested_sparse.value_type import FLOAT32
print(*{kernel.isa for kernel in kernels() if kernel.supported and kernel.value_type is FLOAT32})'); do
  NESTED_SPARSE_FORCE_ISA=$isa TSAN_OPTIONS=halt_on_error=1 ./threads
done
