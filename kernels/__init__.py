"""How a nested model computes: sparse convolution and linear layers in C++, as ONNX Runtime custom operators."""
