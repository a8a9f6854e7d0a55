"""ModelConfig: the configuration of a served model, as Triton's load tools and clients ask for it."""

from __future__ import annotations

import math

from nested_sparse.bfloat16 import dtype_named
from nested_sparse.proto import messages
from nested_sparse.runtime.generation import text_model
from nested_sparse.runtime.scheduling import DEFAULT_PRIORITY, PRIORITY_LEVELS
from nested_sparse.tensor_spec import TensorSpec, most_batch

from .protocol.datatype import datatype_of
from .protocol.wire import HEADER_BYTES
from .repository.names import MODEL_FILE
from .served_model import PLATFORM, ServedModel

BACKEND = "nested_sparse"


def config_message(
    model: ServedModel,
    limit_bytes: int,
    version_policy: messages.ModelVersionPolicy | None = None,
    idle_s: float = 0.0,
) -> messages.ModelConfig:
    """The configuration of `model`, complete but for what every model leaves at the protocol's default.

    limit_bytes: most bytes of a request. version_policy: None for a model that is no folder of versions. idle_s: time
    after which an idle sequence is forgotten.
    """
    samples = most_samples(model, limit_bytes)
    writes = text_model(model.inputs, model.outputs, model.state) is not None
    config = messages.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=samples,
        default_model_filename=MODEL_FILE,
        version_policy=version_policy or messages.ModelVersionPolicy(all=messages.ModelVersionPolicy.All()),
        instance_group=[
            messages.ModelInstanceGroup(name=model.name, count=1, kind=messages.ModelInstanceGroup.KIND_CPU)
        ],
        model_transaction_policy=messages.ModelTransactionPolicy(decoupled=writes),
        parameters={key: messages.ModelParameter(string_value=value) for key, value in _facts(model).items()},
    )
    specs = {spec.name: spec for spec in model.inputs}
    if model.state:
        config.sequence_batching.direct.SetInParent()
        config.sequence_batching.max_sequence_idle_microseconds = round(idle_s * 1e6)
        for output, taken in model.state.items():
            config.sequence_batching.state.add(
                input_name=taken,
                output_name=output,
                data_type=type_name(specs[taken]),
                dims=sizes(specs[taken])[samples > 0 :],
            )
    elif model.joins:
        config.dynamic_batching.default_queue_policy.default_timeout_microseconds = round(model.default_slo_ms * 1e3)
        config.dynamic_batching.default_queue_policy.allow_timeout_override = True
        config.dynamic_batching.priority_levels = PRIORITY_LEVELS
        config.dynamic_batching.default_priority_level = DEFAULT_PRIORITY
    for spec in model.inputs:
        is_state = spec.name in model.state.values()
        config.input.add(name=spec.name, data_type=type_name(spec), dims=sizes(spec)[samples > 0 :], optional=is_state)
    for spec in model.outputs:
        config.output.add(name=spec.name, data_type=type_name(spec), dims=sizes(spec)[samples > 0 :])
    return config


def most_samples(model: ServedModel, limit_bytes: int) -> int:
    """The number of samples of the example shape that a request may have; 0 where there are no samples."""
    if not model.samples:
        return 0
    one = sum(sample_bytes(spec, 1) for spec in model.inputs)
    bound = most_batch(model.inputs)
    samples = model.samples if bound is None else min(model.samples, bound)
    return min(samples, max(1, (limit_bytes - HEADER_BYTES) // max(1, one)))


def sample_bytes(spec: TensorSpec, samples: int) -> int:
    """Bytes of an input with so many samples of the example shape; `samples` counts only where the batch is free."""
    return math.prod(spec.sized(samples, {})) * dtype_named(spec.dtype).itemsize


def sizes(spec: TensorSpec) -> list[int]:
    """The shape as the protocol writes it: -1 where any size will do."""
    return [-1 if size is None else size for size in spec.shape]


def type_name(spec: TensorSpec) -> str:
    """The name of the element type in the protocol's enum."""
    return f"TYPE_{datatype_of(spec.dtype).name}"


def _facts(model: ServedModel) -> dict[str, str]:
    return {
        "default_slo_ms": f"{model.default_slo_ms:g}",
        "levels": str(len(model.levels)),
        "densities": ",".join(f"{level.density:.6g}" for level in model.levels),
        "threads": str(model.threads),
        "isa": model.isa,
    }
