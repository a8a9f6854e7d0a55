"""A checkpoint's ONNX graph: the inputs and operators of ours in it, and the check of all that it may hold."""
