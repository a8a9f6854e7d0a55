"""Taken: the names and parameters that are in use while layers are looked for in a graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Hashable

import onnx_ir as ir
from torch import nn

_SUFFIXES = (".weight", "/weight", "_weight", ".kernel", "/kernel")
_OPERATIONS = "Conv[123]D|MatMul|BiasAdd|ReadVariableOp"
"""TensorFlow's names of operations, as a part of a regular expression."""
_ROOTS = {"StatefulPartitionedCall", "PartitionedCall"}
"""Names that TensorFlow puts around a whole model."""


class Taken:
    """values: names of the graph's values. reserved: names that no layer may have, as those of torch's modules."""

    def __init__(self, values: Collection[str], reserved: Callable[[str], bool]) -> None:
        self._names = set(values)
        self._reserved = reserved
        self._paths: set[str] = set()
        self._inner: set[str] = set()
        self._parameters: dict[Hashable, nn.Parameter] = {}

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it, as a new name of a value."""
        for number in itertools.count():
            name = f"{wanted}.{number}" if number else wanted
            if name not in self._names:
                self._names.add(name)
                return name
        raise AssertionError

    def path(self, node: ir.Node, weight: ir.Value, *, by_weight: bool = False) -> str:
        """A new dotted path of a layer: the weight's, as torch calls it, or the node's.

        by_weight: whether the weight's name is taken also where it does not end as those of layers.
        """
        said = weight.name or ""
        suffix = next((each for each in _SUFFIXES if said.endswith(each)), None)
        named = said[: -len(suffix)] if suffix else said if by_weight else node.name
        parts = self._parts(named or node.op_type, node.op_type)
        for number in itertools.count():
            path = ".".join([*parts[:-1], f"{parts[-1]}_{number}" if number else parts[-1]])
            above = {".".join(parts[:end]) for end in range(1, len(parts))}
            if path not in self._paths and path not in self._inner and self._paths.isdisjoint(above):
                self._paths.add(path)
                self._inner |= above
                return path
            if not self._paths.isdisjoint(above):  # a layer holds no other layers
                parts = ["_".join(parts)]
        raise AssertionError

    def _parts(self, name: str, operator: str) -> list[str]:
        parts: list[str] = []
        for piece in name.strip("/").split("/"):
            if parts and piece.startswith(f"{'.'.join(parts[-1:])}."):  # torch: /layer1/layer1.0/layer1.0.conv1
                parts.pop()
            parts.append(piece)
        split = [part for piece in parts for part in piece.split(".")]
        while len(split) > 1 and re.fullmatch(rf"({operator}|{_OPERATIONS})(_\d+)?", split[-1]):
            split.pop()
        clean = [re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in split if part and part not in _ROOTS]
        return [f"{part}_" if self._reserved(part) else part for part in clean] or [operator.lower()]

    def parameter(self, key: Hashable, make: Callable[[], nn.Parameter]) -> nn.Parameter:
        """The parameter that was made for `key`, or a new one."""
        if key not in self._parameters:
            self._parameters[key] = make()
        return self._parameters[key]
