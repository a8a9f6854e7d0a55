"""Integer form: the same numbers as the QDQ model it was made of, and the operators that DeepSparse asks for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import torch

from nested_sparse.serving.bench.kernels.dense import export_dense
from nested_sparse.serving.bench.kernels.int8 import quantised_statically
from nested_sparse.serving.bench.kernels.peers.integer_form import integer_form
from nested_sparse.trainer.zoo import DigitNet

SHAPE = (1, 3, 24, 24)


def test_integer_form(tmp_path):
    """Residual sums stay float32, so the two differ by less than what int8 itself differs from float32."""
    torch.manual_seed(0)
    model = DigitNet(width=16, channels=3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # alike as they are new, the exporter would share one bias
            torch.nn.init.normal_(module.bias, std=0.1)
    image = torch.randn(SHAPE)
    export_dense(model, image, tmp_path / "plain.onnx", plain=True)
    qdq = quantised_statically(tmp_path / "plain.onnx", SHAPE, per_channel=False)
    made = integer_form(qdq)
    answers = [
        onnxruntime.InferenceSession(path).run(None, {"input": image.numpy()})[0]
        for path in (tmp_path / "plain.onnx", qdq, made)
    ]
    largest = np.abs(answers[0]).max()
    assert 0 < np.abs(answers[2] - answers[0]).max() < 0.1 * largest
    assert np.abs(answers[2] - answers[1]).max() < 0.1 * largest
    operators = Counter(node.op_type for node in onnx.load(made).graph.node)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert operators["ConvInteger"] == convolutions
    assert operators["MatMulInteger"] == 1
    assert operators["Conv"] == operators["Gemm"] == 0
