"""How a nested model computes on an NVIDIA GPU: V × 1 blocks on tensor cores, written in Triton.

Needs the extra [gpu]. A device without a GPU imports nothing of it (tests/test_imports.py).
"""

from .conv import SparseConv, Window
from .epilogue import Epilogue
from .layer_norm import layer_norm
from .linear import SparseLinear
from .weight import BLOCK_ROWS, GpuWeight

__all__ = ["BLOCK_ROWS", "Epilogue", "GpuWeight", "SparseConv", "SparseLinear", "Window", "layer_norm"]
