"""Structs: the C++ structs that Python shares with the operator library, as ctypes, and whether they are the library's.

The headers say what each field is: packed.h, route.h, spmm8.h, gemv8.h and gather8.h in quantized/, and exported.h for
KernelRow and KernelCall.
"""

from __future__ import annotations

import ctypes

from nested_sparse.errors import KernelError


class KernelRow(ctypes.Structure):
    """One line of the list of kernels."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("op", ctypes.c_char_p),
        ("isa", ctypes.c_char_p),
        ("block_rows", ctypes.c_int32),
        ("banks", ctypes.c_int32),
        ("index_bytes", ctypes.c_int32),
        ("value_type", ctypes.c_char_p),
        ("vectors", ctypes.c_int32),
        ("lanes", ctypes.c_int32),
        ("supported", ctypes.c_int32),
    )


class PackedLevel(ctypes.Structure):
    """The blocks that one level adds to a weight."""

    _fields_ = (
        ("ptr", ctypes.c_void_p),
        ("col", ctypes.c_void_p),
        ("val", ctypes.c_void_p),
    )


class PackedWeight(ctypes.Structure):
    """A weight at one level."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("level_count", ctypes.c_int32),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("perm", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("per_row", ctypes.c_int32),
        ("columns", ctypes.c_int64),
        ("part_bits", ctypes.c_int32),
    )


class Clip(ctypes.Structure):
    """Bounds of an output."""

    _fields_ = (("lo", ctypes.c_float), ("hi", ctypes.c_float))


class KernelCall(ctypes.Structure):
    """Arguments of one kernel call."""

    _fields_ = (
        ("weight", PackedWeight),
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("clip", Clip),
        ("group_begin", ctypes.c_int64),
        ("group_end", ctypes.c_int64),
        ("x_pitch", ctypes.c_int64),
        ("pixels", ctypes.c_int64),
        ("y_pitch", ctypes.c_int64),
        ("y_whole", ctypes.c_bool),
    )


class QuadLevel(ctypes.Structure):
    """The quads that one level adds to an int8 weight."""

    _fields_ = (
        ("ptr", ctypes.c_void_p),
        ("col", ctypes.c_void_p),
        ("val", ctypes.c_void_p),
    )


class Spmm8Args(ctypes.Structure):
    """Arguments of one call of a kernel of int8 weights."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("level_count", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("x_group_step", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("multiplier", ctypes.c_void_p),
        ("perm", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("residual", ctypes.c_void_p),
        ("residual_pitch", ctypes.c_int64),
        ("residual_multiplier", ctypes.c_int32),
        ("table", ctypes.c_void_p),
        ("lo", ctypes.c_uint8),
        ("hi", ctypes.c_uint8),
        ("y", ctypes.c_void_p),
        ("y_pitch", ctypes.c_int64),
        ("keep", ctypes.c_uint64),
        ("pad", ctypes.c_uint8),
        ("masked", ctypes.c_bool),
        ("pixels", ctypes.c_int32),
        ("shared_quads", ctypes.c_void_p),
    )


class Sums8Args(ctypes.Structure):
    """The same for the kernel that stores sums."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("level_count", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("sums_pitch", ctypes.c_int64),
        ("pixels", ctypes.c_int32),
    )


class Gemv8Args(ctypes.Structure):
    """Arguments of one call of a kernel that multiplies int8 weights by a vector of bytes."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("level_count", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("x_zero", ctypes.c_int32),
        ("row_sums", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


class Gemv8FloatArgs(ctypes.Structure):
    """The same for a vector of floats."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("level_count", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


class ByteRun(ctypes.Structure):
    """Pixels that are gathered together."""

    _fields_ = (
        ("source", ctypes.c_int32),
        ("to", ctypes.c_uint8),
        ("count", ctypes.c_uint8),
    )


class Gather8Args(ctypes.Structure):
    """Arguments of one call of a gather kernel of bytes."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("channel_begin", ctypes.c_int64),
        ("channel_end", ctypes.c_int64),
        ("channel_step", ctypes.c_int64),
        ("runs", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("taps", ctypes.c_int64),
        ("step", ctypes.c_int32),
        ("zero", ctypes.c_uint8),
        ("rows", ctypes.c_void_p),
    )


class Seen(ctypes.Structure):
    """Time that passed, and profiled time of the work that was done in it; both in milliseconds."""

    _fields_ = (("elapsed_ms", ctypes.c_double), ("done_ms", ctypes.c_double))


class GuardedRun(ctypes.Structure):
    """One run that lowers its own level. The memory that its pointers point to outlives the run."""

    _fields_ = (
        ("level", ctypes.c_void_p),
        ("level_ms", ctypes.c_void_p),
        ("remaining_share", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("started_ns", ctypes.c_void_p),
        ("layers", ctypes.POINTER(ctypes.c_char_p)),
        ("capacity", ctypes.c_int32),
        ("level_count", ctypes.c_int32),
        ("operator_count", ctypes.c_int32),
        ("lowest_level", ctypes.c_int32),
        ("forced_at", ctypes.c_int32),
        ("forced_level", ctypes.c_int32),
        ("begun_ns", ctypes.c_int64),
        ("budget_ms", ctypes.c_double),
        ("slowdown", ctypes.c_double),
        ("least_accuracy", ctypes.c_double),
        ("margin", ctypes.c_double),
        ("position", ctypes.c_int32),
        ("lowered_at", ctypes.c_int32),
        ("lowered_from", ctypes.c_int32),
        ("share_left", ctypes.c_double),
        ("done_ms", ctypes.c_double),
        ("seen", Seen),
        ("last", Seen),
    )


SHARED: tuple[type[ctypes.Structure], ...] = (
    KernelRow,
    PackedLevel,
    PackedWeight,
    Clip,
    KernelCall,
    QuadLevel,
    Spmm8Args,
    Sums8Args,
    Gemv8Args,
    Gemv8FloatArgs,
    ByteRun,
    Gather8Args,
    Seen,
    GuardedRun,
)


def check_layout(library: ctypes.CDLL) -> None:
    """Raise KernelError unless the library lays out every struct of SHARED as this module does."""
    try:
        library.nested_sparse_struct_layout.restype = ctypes.c_char_p
        text: bytes = library.nested_sparse_struct_layout()
    except AttributeError:
        text = b""
    theirs = dict(line.split(" ", 1) for line in text.decode().splitlines())
    ours = {name: f"{offset} {size}" for structure in SHARED for name, offset, size in _places(structure)}
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise KernelError(
                f"the operator library is of another version than this package: expected {name} as "
                f"{ours.get(name, 'absent')} (byte offset, bytes), got {theirs.get(name, 'absent')}; "
                "build it again with `pip install .`"
            )


def _places(structure: type[ctypes.Structure]) -> list[tuple[str, int, int]]:
    """Name, byte offset and size of the struct and of its fields, named as nested_sparse_struct_layout names them."""
    name = structure.__name__
    fields = [(each[0], getattr(structure, each[0])) for each in structure._fields_]
    return [
        (name, 0, ctypes.sizeof(structure)),
        *((f"{name}.{field}", place.offset, place.size) for field, place in fields),
    ]
