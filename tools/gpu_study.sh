#!/bin/sh
# Trains rows of the study of four levels in one net (docs/results/levels.toml) on CUDA, in bfloat16, one process for each
# GPU by torchrun. $1: Python, $2: folder for the results. tools/gpu_check.sh --study calls it; without a limit of time:
#
#   PYTHONPATH=$PWD NESTED_SPARSE_DATA=FOLDER tools/gpu_study.sh python3 OUT
#
# It can be stopped and started again; finished rows are in OUT/levels.jsonl. ROWS: a word in the names of the rows that are
# trained, all rows by default. NESTED_SPARSE_DATA: the folder that holds fashion_mnist. NESTED_SPARSE_LIBRARY: the
# operator library, with which export checks each file; it is built here where none is named.
set -eu
cd "$(dirname "$0")/.."
python=$1 out=$2
data=${NESTED_SPARSE_DATA:?name the folder that holds fashion_mnist, the data of the study}

if [ -z "${NESTED_SPARSE_LIBRARY-}" ]; then
  cmake -S . -B build/gpu-check -DCMAKE_BUILD_TYPE=Release >/dev/null
  cmake --build build/gpu-check -j 8 >/dev/null
  export NESTED_SPARSE_LIBRARY="$PWD/build/gpu-check/libnested_sparse_kernels.so"
fi
mkdir -p "$out"
cp docs/results/levels.toml "$out/levels.toml"
"$python" tools/study.py run "$out/levels.toml" --data "$data" --out "$out/runs" --keep "$out/kept" \
  --processes "$("$python" -c 'import torch; print(max(1, torch.cuda.device_count()))')" ${ROWS:+--rows "$ROWS"}
