#!/bin/sh
# Runs tests/kernels over the library of aarch64 on this machine, emulated: `make test-arm`. The set-up is in arm.sh.
#
# $1: the folder of the tools (cmake, ninja, pip); the rest goes to pytest.
set -eu
cd "$(dirname "$0")/.."
tools=$1
shift
. tools/arm.sh
set_up_arm

PYTHONPATH=$site:$PWD NESTED_SPARSE_LIBRARY=$library PYTHONDONTWRITEBYTECODE=1 \
  "$python" -m pytest -q -p no:cacheprovider tests/kernels "$@"
"$tools/python" tools/neon_ports.py "$library"
