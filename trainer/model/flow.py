"""Flow: a value that holds a group's channels, and the operations that pass channels on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from nested_sparse.coupled import ChannelGroup

# fmt: off
POINTWISE = frozenset([
    "identity", "relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
    "hardsigmoid", "hardtanh", "sigmoid", "logsigmoid", "tanh", "softplus", "softsign", "clamp", "clip", "neg",
    "dropout", "dropout1d", "dropout2d", "alphadropout", "featurealphadropout", "clone", "contiguous",
])
# fmt: on
"""Names, as `operation` spells them, of elementwise modules of torch.nn, functions and methods."""

JOINING = frozenset(["add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "maximum", "minimum"])
REDUCING = frozenset(["mean", "sum", "amax", "squeeze"])
SPATIAL = re.compile(r"(?:(?:adaptive)?(?:avg|max)pool|(?:zero|constant|reflection|replication)pad)([12])d")
"""Names of pooling and padding; the group is the number of last dimensions that they work on."""


class Channels:
    """A group under construction. Groups can be joined; `root` is the joined group."""

    def __init__(self, channels: int, whole: str = "") -> None:
        self.channels, self.whole = channels, whole
        self.producers, self.consumers, self.norms = dict[str, int](), dict[str, None](), dict[str, None]()
        self._joined: Channels | None = None

    @property
    def root(self) -> Channels:
        """The group that this one was joined to; itself if none."""
        return self if self._joined is None else self._joined.root

    def join(self, other: Channels) -> None:
        """Make the two groups one."""
        first, second = self.root, other.root
        if first is second:
            return
        for name in ("producers", "consumers", "norms"):
            getattr(first, name).update(getattr(second, name))
        first.keep_whole(second.whole)
        second._joined = first

    def keep_whole(self, reason: str) -> None:
        """Forbid dropping channels. The first reason is kept; an empty reason changes nothing."""
        self.root.whole = self.root.whole or reason

    def finished(self) -> ChannelGroup:
        """The finished group. Its step is the least common multiple of its producers' row steps."""
        root = self.root
        members = tuple(root.producers), tuple(root.consumers), tuple(root.norms)
        return ChannelGroup(root.channels, math.lcm(*root.producers.values()), *members, root.whole)


@dataclass(frozen=True, slots=True)
class Flow:
    """A value with a group's channels in dimension `dim`, counted from the end (negative).

    flat: whether each channel has several consecutive features, as after flattening an image.
    """

    group: Channels
    dim: int
    flat: bool = False

    @property
    def channels(self) -> int:
        """Number of channels in the group."""
        return self.group.channels

    def fits(self, other: Flow) -> bool:
        """Whether a sum of the two values adds channel c to channel c."""
        return (self.dim, self.flat, self.channels) == (other.dim, other.flat, other.channels)

    def is_read_as(self, features: int) -> bool:
        """Whether `features` numbers in `dim` are the channels, with equally many features per channel."""
        return features == self.channels or (self.flat and features % self.channels == 0)


def operation(node: fx.Node, module: nn.Module | None) -> str:
    """The node's name in lower case without underscores: "adaptiveavgpool2d" for both module and function."""
    if module is not None:
        name = type(module).__name__ if type(module).__module__.startswith("torch.nn") else ""
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.replace("_", "").lower()


def passed(name: str, node: fx.Node, module: nn.Module | None, flows: Sequence[Flow]) -> Flow | None:
    """The result of an operation that reads the tensors `flows`; None when no rule for its channels is known."""
    first = flows[0]
    if name in JOINING and all(flow.fits(first) for flow in flows):
        for flow in flows[1:]:
            first.group.join(flow.group)
        return first
    if len(flows) > 1:
        return None
    if name in POINTWISE or _leaves_channels(name, node, first):
        return first
    if _flattens(name, node, module):
        return first if first.dim == -1 else Flow(first.group, -1, flat=True)
    return _reduced(node, first) if name in REDUCING else None


def _leaves_channels(name: str, node: fx.Node, flow: Flow) -> bool:
    """Whether the operation is pooling or padding over dimensions after the channels."""
    found = SPATIAL.fullmatch(name)
    if found:
        dimensions = int(found[1])
    elif name == "pad" and len(node.args) > 1 and isinstance(node.args[1], list | tuple):
        dimensions = len(node.args[1]) // 2
    else:
        return False
    return dimensions < -flow.dim


def _flattens(name: str, node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the operation turns (N, C, ...) into (N, C · ...): flatten from dimension 1, or a view as a matrix."""
    if name == "flatten":
        given: tuple[Any, ...] = (*node.args[1:], *node.kwargs.values())
        return (module.start_dim, module.end_dim) == (1, -1) if isinstance(module, nn.Flatten) else given == (1,)
    if name in ("view", "reshape"):
        sizes = node.args[1:]
        return len(sizes[0] if sizes and isinstance(sizes[0], list | tuple) else sizes) == 2
    return False


def _reduced(node: fx.Node, flow: Flow) -> Flow | None:
    """The result of a reduction over dimensions after the channels; None for other dimensions."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    rank = 1 - flow.dim  # the batch, the channels and what follows
    dims = [given] if isinstance(given, int) else given if isinstance(given, list | tuple) else []
    after = {dim - rank if isinstance(dim, int) and dim >= 0 else dim for dim in dims}
    if not after or not after <= set(range(flow.dim + 1, 0)):
        return None
    keeps = bool(node.kwargs.get("keepdim", len(node.args) > 2 and node.args[2]))
    return flow if keeps else Flow(flow.group, flow.dim + len(after))
