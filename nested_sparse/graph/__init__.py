"""A checkpoint's ONNX graph: what it may hold, and how it is read."""
