"""Fake worker: the real worker's loop with test engines that are right, wrong, noisy, failing or dying."""

from __future__ import annotations

import os
import sys
from itertools import count

import onnxruntime as ort

from nested_sparse.serving.bench.kernels.peers import worker


def loader(change):
    """An engine that answers what ONNX Runtime does, changed."""

    def load(load):
        print("a banner on stdout that is not part of the protocol", flush=True)
        session = ort.InferenceSession(load.model, providers=["CPUExecutionProvider"])
        return f"Fake {load.threads}", lambda: change(session.run(None, {"input": load.image})[0])

    return load


def failing(load):
    raise RuntimeError("this engine does not like the model")


def fading(output, calls=count()):  # noqa: B008 - one count for the process
    return output if next(calls) < 4 else dying(output)


def dying(output):
    print("last words", file=sys.stderr, flush=True)
    os._exit(7)


worker.LOADERS.update(
    deepsparse=loader(lambda output: output), mnn=loader(lambda output: 1.01 * output), openvino=failing
)
worker.LOADERS["dying"] = loader(dying)
worker.LOADERS["fading"] = loader(fading)
worker.main()
