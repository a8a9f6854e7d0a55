"""`bench kernels`: our kernels beside dense ONNX Runtime and other engines on the same work."""
