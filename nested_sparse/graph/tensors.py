"""check_tensor: whether a tensor of a graph has its values in the file, all of them."""

from __future__ import annotations

import math

from ..excerpt import excerpt
from ..wire import Wire, WireError, integer_count, integers
from . import onnx_schema as onnx
from .names import check_names
from .operators import MAX_RANK


def check_tensor(wire: Wire, data: memoryview) -> tuple[str, int]:
    """Name of a TensorProto, and the number of its values, all of which are in the file. Raises WireError."""
    tensor = wire.read(data, "TensorProto", onnx.TENSOR)
    name, kind = tensor.get("name", ""), tensor.get("data_type", 0)
    check_names([name])
    where = f"tensor {excerpt(name)!r}"
    bits = onnx.TENSOR_BITS.get(kind)
    if bits is None or tensor.get("data_location", 0) != 0:
        raise WireError(f"has a {where} of texts, of an unknown type, or in another file")
    dims = integers(tensor["dims"], MAX_RANK)
    if any(dim < 0 for dim in dims):
        raise WireError(f"has a {where} of a negative size")
    count = math.prod(dims)
    held = [_raw_values(tensor.get("raw_data"), bits)]
    for key, nbytes in (("float_data", 4), ("double_data", 8)):
        held.append(sum(len(piece) for piece in tensor[key]) // nbytes)
    held += [integer_count(tensor[key]) for key in ("int32_data", "int64_data", "uint64_data")]
    # a number holds two values of four bits, or half a complex value; ONNX Runtime checks the exact count
    most = max(held) * (2 if bits == 4 else 1)
    if count > most or (count and sum(map(bool, held)) != 1):
        raise WireError(f"has a {where} of {count} values, of which the file holds {most}")
    return name, count


def _raw_values(raw: memoryview | None, bits: int) -> int:
    return 0 if raw is None else len(raw) * 8 // bits
