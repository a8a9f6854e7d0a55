#!/bin/sh
# Checks the GPU's kernels on a machine with an NVIDIA GPU, in at most 8 minutes: their tests, compiled, then the table of
# docs/gpu.md. The machine needs Python with torch and Triton for CUDA, a C compiler for Triton, and no network. Results go to $OUT, or build/gpu/.
#
#   tools/gpu_check.sh            the check
#   tools/gpu_check.sh --wheels   the other wheels that it needs, for `pip download -d FOLDER $(tools/gpu_check.sh --wheels)`
#   tools/gpu_check.sh --study    the check, then a part of the study of docs/results/levels.toml, trained on the GPU
#
# PYTHON: the interpreter, python3 by default. NESTED_SPARSE_DATA: for --study, the folder that holds fashion_mnist.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

pinned() {
  for name in "$@"; do
    grep -iE "^$name==" constraints.txt | head -1 | sed 's/;.*//'
  done
}

case ${1-} in
  --wheels)
    pinned numpy pytest iniconfig pluggy packaging Pygments hypothesis sortedcontainers
    # --study trains and exports
    pinned onnx onnx-ir onnxruntime onnxscript ml_dtypes protobuf flatbuffers typing_extensions safetensors rich markdown-it-py \
      mdurl psutil click tabulate scikit-learn scipy joblib threadpoolctl
    exit 0 ;;
  "" | --study) ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac

out=${OUT:-build/gpu}
mkdir -p "$out"
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH PYTHONUNBUFFERED=1
failed=0

# $1: seconds, $2: name of the log; the rest is the command. A part that fails or runs too long does not stop the others.
part() {
  seconds=$1 log=$out/$2.log
  shift 2
  code=0
  timeout "$seconds" "$@" >"$log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then echo "passed: $*"; else failed=1; echo "FAILED ($code): $*, see $log"; tail -25 "$log"; fi
}

"$python" -c 'import torch, triton' || { echo "$python has no torch, or no Triton: set PYTHON to one that has them" >&2; exit 1; }
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
  || { echo "torch finds no CUDA device: this check needs one; the tests run without one under make test" >&2; exit 1; }
workers=$("$python" -c 'import importlib.util as i, os; print(min(8, os.cpu_count()) if i.find_spec("xdist") else "")')
part 170 tests "$python" -m pytest -q -p no:cacheprovider ${workers:+-n "$workers"} tests/kernels/gpu
part 280 table "$python" tools/gpu_table.py --out "$out"
[ "${1-}" != --study ] || part 580 study tools/gpu_study.sh "$python" "$out"
exit $failed
