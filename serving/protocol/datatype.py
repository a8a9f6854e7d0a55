"""Datatype: the protocol's names for element types, and the fields that carry them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nested_sparse.bfloat16 import NAME, dtype_named
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt


@dataclass(frozen=True, slots=True)
class Datatype:
    """One element type of the Open Inference Protocol.

    name: name in the protocol, e.g. "FP32".
    dtype: numpy's type, little-endian as on the wire.
    contents: field of InferTensorContents that carries it; None where only raw bytes can.
    """

    name: str
    dtype: np.dtype[np.generic]
    contents: str | None


DATATYPES = tuple(
    Datatype(name, dtype_named(dtype).newbyteorder("<"), contents)
    for name, dtype, contents in (
        ("BOOL", "bool", "bool_contents"),
        ("UINT8", "uint8", "uint_contents"),
        ("UINT16", "uint16", "uint_contents"),
        ("UINT32", "uint32", "uint_contents"),
        ("UINT64", "uint64", "uint64_contents"),
        ("INT8", "int8", "int_contents"),
        ("INT16", "int16", "int_contents"),
        ("INT32", "int32", "int_contents"),
        ("INT64", "int64", "int64_contents"),
        ("FP16", "float16", None),
        ("BF16", "bfloat16", None),
        ("FP32", "float32", "fp32_contents"),
        ("FP64", "float64", "fp64_contents"),
    )
)
_BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
_BY_DTYPE = {datatype.dtype.name: datatype for datatype in DATATYPES}
_BY_DTYPE[NAME] = _BY_NAME["BF16"]


def datatype_named(name: str, tensor: str) -> Datatype:
    """The datatype called `name` on the wire; `tensor` names the input in the error. Raises InputError."""
    datatype = _BY_NAME.get(name)
    if datatype is None:
        raise InputError(
            f"Input '{excerpt(tensor)}' has datatype '{excerpt(name)}'; expected one of {', '.join(_BY_NAME)}."
        )
    return datatype


def datatype_of(dtype: str) -> Datatype:
    """The datatype of a numpy dtype, e.g. "float32", or of "bfloat16". Raises InputError."""
    datatype = _BY_DTYPE.get(dtype)
    if datatype is None:
        raise InputError(f"Arrays of {excerpt(dtype)} cannot be served; the protocol carries {', '.join(_BY_DTYPE)}.")
    return datatype
