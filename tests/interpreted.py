"""Interpreted: the modules of a session on a GPU, with Triton's interpreter in place of one where there is none."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are defined; tools/gpu_check.sh sets 0

from nested_sparse.runtime.cuda.torch_graph import FUNCTIONS

__all__ = ["FUNCTIONS"]
