"""How the graph of a checkpoint runs on an NVIDIA GPU: ONNX's nodes by torch, ours by kernels/gpu.

Needs the extra [gpu]. Only a session for such a device imports it (tests/test_imports.py). Decision 053 says why it is
not ONNX Runtime's CUDA provider.
"""

from .torch_graph import TorchGraph

__all__ = ["TorchGraph"]
