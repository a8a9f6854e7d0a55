"""Wire: the parts of a request's bytes, measured before protobuf makes objects of them."""

from __future__ import annotations

from typing import TypeAlias

from nested_sparse.errors import InputError
from nested_sparse.wire import BYTES, VARINT, WIDTHS, WireError, varint

HEADER_BYTES = 64 << 10
"""Limit of a request's bytes beside the values of its tensors: names, shapes and parameters."""
FIELD_BYTES = 8
"""Least bytes that a field counts as: the objects cost time, not the bytes."""
VARINT_BYTES = 1 << 20
"""Limit of values that protobuf decodes one by one: typed integers and booleans. Larger tensors travel raw."""

_Layout: TypeAlias = "dict[int, _Layout | str]"
_FIXED, _VARINTS, _RAW = "fixed", "varints", "raw"
_CONTENTS: _Layout = {1: _VARINTS, 2: _VARINTS, 3: _VARINTS, 4: _VARINTS, 5: _VARINTS, 6: _FIXED, 7: _FIXED}
_INFER_REQUEST: _Layout = {5: {5: _CONTENTS}, 7: _RAW}
"""The places of values in a ModelInferRequest: inputs[].contents and raw_input_contents, by field number."""


def split_infer_request(data: bytes) -> tuple[bytes, list[memoryview]]:
    """A ModelInferRequest without its raw_input_contents, and those as views of `data`.

    Raises InputError where it has too many bytes beside its tensors' values, or cannot be parsed.

    The parser makes an object of every field, up to 80 ns for two bytes (Xeon, upb), in one call that blocks the event
    loop: 1 s for a request that is allowed 25 MB. This function reads tags and lengths, steps over the values, and ends
    at the limit. So HEADER_BYTES bounds its cost, whatever the request's size. Raw values are never copied; the parser
    and the accessor of its result would copy them once each, 40 ms of the loop for 38 MB.
    """
    walk = _Walk(data)
    try:
        walk.message(0, len(data), _INFER_REQUEST)
    except WireError:
        raise InputError(f"The request cannot be parsed as a ModelInferRequest ({len(data)} bytes)") from None
    if not walk.raw:
        return data, []
    view, rest, end = memoryview(data), [], 0
    for begin, _, after in walk.raw:
        rest.append(view[end:begin])
        end = after
    rest.append(view[end:])
    return b"".join(rest), [view[value:after] for _, value, after in walk.raw]


def length_prefix(number: int, size: int) -> bytes:
    """The bytes that precede `size` bytes of field `number` in a message."""
    return encoded(number << 3 | BYTES) + encoded(size)


def encoded(number: int) -> bytes:
    """The varint of `number`, which is 0 or more."""
    if number < 128:
        return number.to_bytes(1, "little")
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class _Walk:
    """One walk over a message, with the bytes that it may still find."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header_left = HEADER_BYTES
        self._varints_left = VARINT_BYTES
        self.raw: list[tuple[int, int, int]] = []  # offsets of each field: its begin, the begin of its value, its end

    def message(self, at: int, end: int, layout: _Layout) -> None:
        """Read the fields in data[at:end]."""
        while at < end:
            begin = at
            tag, at = varint(self._data, at, end)
            kind, inner = tag & 7, layout.get(tag >> 3)
            if kind == BYTES:
                length, at = varint(self._data, at, end)
                value, at = at, at + length
            elif kind == VARINT:
                _, at = varint(self._data, at, end)
            elif kind in WIDTHS:
                at += WIDTHS[kind]
            else:
                raise WireError
            if at > end:
                raise WireError
            if kind != BYTES or inner is None:
                self._count(at - begin)
                continue
            self._count(value - begin)
            if isinstance(inner, dict):
                self.message(value, at, inner)
            elif inner == _RAW:
                self.raw.append((begin, value, at))
            elif inner == _VARINTS:
                self._varints_left -= length
                if self._varints_left < 0:
                    raise InputError(
                        f"The request has more than {VARINT_BYTES} bytes of typed integers or booleans; send large "
                        "tensors in raw_input_contents."
                    )

    def _count(self, size: int) -> None:
        self._header_left -= max(size, FIELD_BYTES)
        if self._header_left < 0:
            raise InputError(
                f"The request has more than {HEADER_BYTES} bytes beside its tensors' values; expected each input and "
                "each output once, short names, few parameters, and typed contents packed."
            )
