#!/usr/bin/env bash
# Runs all tests in each setting that users' machines have, one after the other: `make test-settings`.
#
# A line for each: the setting, passed or FAILED, pytest's own last line, seconds, and where its output is kept.
# As root, the ordinary user is one that is made for it (nested-sparse-tests), with a clone of the last commit in /tmp which
# it sets up itself; a user runs every setting as who it is. What a machine lacks is said and left out.
# $1: the folder of the tools (python); then names of settings, default: all; after --, arguments of pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
tools=$(realpath -s "$1")
shift
wanted=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do wanted+=("$1"); shift; done
[ $# -eq 0 ] || shift
arguments="$*"
pytest=("$tools/python" -m pytest -n 2 --dist loadfile -m "not slow" -q "$@")
logs=$PWD/build/settings
mkdir -p "$logs"
failed=0
user=nested-sparse-tests

# $1: name of the setting; then the command
setting() {
  local name=$1 begin=$SECONDS result=passed
  shift
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0
  if ! "$@" >"$logs/$name.log" 2>&1 </dev/null; then result=FAILED failed=1; fi
  printf '%-16s %s  %s  (%d s, %s)\n' "$name" "$result" "$(tail -n 1 "$logs/$name.log")" $((SECONDS - begin)) "$logs/$name.log"
}

left_out() {
  [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $1 "* ]] || return 0
  printf '%-16s left out: %s\n' "$1" "$2"
}

usable_isas=$("$tools/python" -c 'from nested_sparse.kernels.library import kernels
print(*{kernel.isa for kernel in kernels() if kernel.supported})')
isa() {
  if [[ " $usable_isas " == *" $1 "* ]]; then
    setting "isa-$1" env NESTED_SPARSE_FORCE_ISA="$1" "${pytest[@]}"
  else
    left_out "isa-$1" "this processor or build has it not"
  fi
}

# cores $1: the first so many of those that this shell may use
cores() {
  local list
  list=$("$tools/python" -c 'import os, sys
cores = sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]
print(",".join(map(str, cores)) if len(cores) == int(sys.argv[1]) else "")' "$1")
  if [ -n "$list" ]; then
    setting "cores-$1" taskset -c "$list" "${pytest[@]}"
  else
    # what reads the count in Python is told it (tests/settings): other paths of the code then run, though no sooner
    setting "cores-$1" env NESTED_SPARSE_TEST_CORES="$1" PYTHONPATH="$PWD/tests/settings" "${pytest[@]}"
  fi
}

# a clone of the last commit, set up and tested by the user alone, as on a fresh machine
as_user() {
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$user" || return
  local folder code python
  local be=(setpriv --reuid "$user" --regid "$user" --init-groups)
  folder=$(mktemp -d /tmp/nested-sparse-settings-XXXXXX)
  git clone -q . "$folder/checkout" || return
  [ ! -e ../shared ] || ln -s "$(realpath ../shared)" "$folder/shared"
  chmod 755 "$folder"
  chown -R --no-dereference "$user" "$folder"
  python=$("$tools/python" -c 'import sys; print(sys._base_executable)')
  if ! "${be[@]}" sh -c '"$0" -c ""' "$python" 2>/dev/null; then
    # root's own Python often lies in root's home; the user may then read, and only read, what root may
    echo "$user may not run $python: it is lent the right to read everything"
    be+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
  fi
  "${be[@]}" env HOME="/home/$user" USER="$user" LOGNAME="$user" \
    make -C "$folder/checkout" --no-print-directory PYTHON="$python" test TEST_ARGS="$arguments"
  code=$?
  rm -rf "$folder"
  return $code
}

readonly_home=$(mktemp -d)
chmod 555 "$readonly_home"
trap 'chmod 755 "$readonly_home"; rm -rf "$readonly_home"' EXIT

setting default env -u NESTED_SPARSE_FORCE_ISA "${pytest[@]}"
for set in avx512 avxvnni avx2 neon scalar; do isa "$set"; done
for count in 1 2 4; do cores "$count"; done
setting home-unset env -u HOME -u XDG_CACHE_HOME "${pytest[@]}"
# root may write anywhere: a home that is no folder is as unwritable to it as a read-only one to others
if [ "$(id -u)" = 0 ]; then home=/dev/null/home; else home=$readonly_home; fi
setting home-readonly env -u XDG_CACHE_HOME HOME="$home" "${pytest[@]}"
setting locale-c env LC_ALL=C LANG=C "${pytest[@]}"
# torch on another processor, as far as rounding goes: an assertion that rests on it fails here, whatever this one is
setting rounding env ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 "${pytest[@]}"
setting reversed env NESTED_SPARSE_TEST_ORDER=reversed "${pytest[@]}"
if [ "$(id -u)" != 0 ]; then
  left_out user "every setting above was run by an ordinary user, $(id -un 2>/dev/null || id -u)"
elif command -v useradd >/dev/null && command -v setpriv >/dev/null; then
  setting user as_user
else
  left_out user "useradd and setpriv are needed to make and be one"
fi
exit $failed
