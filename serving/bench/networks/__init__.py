"""`bench networks`: networks of the literature, nested, beside dense ONNX Runtime of the same torch models."""
