"""Model configuration: the batch size that it states is one that the server takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from clients import failure, tensor, triton

from nested_sparse.serving.model_config import config_message, most_samples
from nested_sparse.serving.protocol.wire import HEADER_BYTES
from nested_sparse.serving.server import LEAST_MESSAGE_BYTES, ServerConfig


def test_a_free_batch_is_stated_apart_from_the_shapes(make_model):
    """As Triton has it: with max_batch_size above 0, dims leave the batch out."""
    config = config_message(make_model(samples=64, joins=True), LEAST_MESSAGE_BYTES)
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (64, [4], [1])
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 1_000_000
    assert (config.dynamic_batching.priority_levels, config.dynamic_batching.default_priority_level) == (10, 5)


def test_a_fixed_batch_is_part_of_the_shapes(make_model):
    config = config_message(make_model(), LEAST_MESSAGE_BYTES)
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 4])
    assert config.WhichOneof("scheduling_choice") is None


@pytest.mark.parametrize(("limit", "samples"), [(HEADER_BYTES + 16 * 5, 5), (HEADER_BYTES + 16 * 5 - 1, 4), (0, 1)])
def test_the_batch_size_fits_in_a_message(make_model, limit, samples):
    """A model that was loaded later may be larger than the server's messages were made for."""
    assert most_samples(make_model(samples=64), limit) == samples


def test_a_request_of_that_size_is_answered_and_a_larger_message_refused(make_model, serve):
    """One sample of 64 kB: 64 of them are what the server takes at least."""
    model = make_model(samples=100)
    wide = replace(model.inputs[0], shape=(None, 4, 4096), example_shape=(1, 4, 4096))
    model = replace(model, inputs=(wide,))
    model.engine.inputs = (wide,)
    with (
        serve([model], ServerConfig(port=0, request_samples=100)) as server,
        triton.InferenceServerClient(server.address) as client,
    ):
        most = client.get_model_config("net").config.max_batch_size
        assert most == 100
        result = client.infer("net", [tensor(np.ones((most, 4, 4096), np.float32))])
        assert result.as_numpy("double").shape == (most, 4, 4096)
        status, _ = failure(client, inputs=[tensor(np.ones((most + 2, 4, 4096), np.float32))])
        assert status == "RESOURCE_EXHAUSTED"
