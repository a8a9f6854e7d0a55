"""Nested checkpoints from ONNX files: the weights in a graph become nested layers, the rest of the graph stays."""

from .nest_onnx import NestedFile, nest_onnx

__all__ = ["NestedFile", "nest_onnx"]
