"""Product: the convolution or matrix product of a tensor with a weight, that a module's own forward makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nested_sparse.excerpt import excerpt

from .modes import evaluating
from .preserved import preserved, preserved_generators

_CONVOLUTIONS: Mapping[Any, tuple[type[nn.Conv1d | nn.Conv2d | nn.Conv3d], int]] = {
    F.conv1d: (nn.Conv1d, 1),
    F.conv2d: (nn.Conv2d, 2),
    F.conv3d: (nn.Conv3d, 3),
}
"""The layer and its spatial dimensions, by function."""
_OPTIONS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_MATMULS = frozenset([torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__])
# fmt: off
_OTHERS = frozenset([
    torch.einsum, torch.bmm, torch.baddbmm, torch.tensordot, torch.bilinear, torch.dot, torch.mv, torch.addmv,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, Tensor.bmm, Tensor.__rmatmul__, Tensor.mv,
])
# fmt: on
"""Products that no layer here makes."""


@dataclass(frozen=True, slots=True)
class Product:
    """A call of torch that multiplies `x` with a weight.

    kind: the torch layer that makes it: a convolution or nn.Linear. weight: the operand as it was given.
    transposed: whether the operand is (K, O), where a linear layer's weight is (O, K). bias: what the call adds.
    options: stride, padding, dilation and groups of a convolution.
    """

    kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear]
    x: Any
    weight: Any
    transposed: bool
    bias: Any
    options: tuple[Any, ...] = ()

    @staticmethod
    def of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
        """The product that a call of `func` makes; None if it makes none of these kinds."""
        product = Product._of(func, args, kwargs)
        return product if product is not None and isinstance(product.weight, Tensor) else None

    @staticmethod
    def _of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
        if func in _CONVOLUTIONS:
            given = _given(("input", "weight", "bias", *_OPTIONS), args, kwargs)
            kind, dimensions = _CONVOLUTIONS[func]
            options = tuple(_sizes(given.get(name, default), dimensions) for name, default in _OPTIONS.items())
            return Product(kind, given["input"], given["weight"], False, given.get("bias"), options)
        if func is F.linear:
            given = _given(("input", "weight", "bias"), args, kwargs)
            return Product(nn.Linear, given["input"], given["weight"], False, given.get("bias"))
        if func in (torch.addmm, Tensor.addmm) and not kwargs and len(args) == 3:
            return Product(nn.Linear, args[1], args[2], True, args[0])
        if func in _MATMULS and not kwargs:
            return Product(nn.Linear, args[0], args[1], True, None)
        return None

    @property
    def rows_first(self) -> Tensor:
        """The weight as (O, ...)."""
        weight: Tensor = self.weight.t() if self.transposed else self.weight
        return weight

    def like(self, other: Product) -> bool:
        """Whether both are made by one layer, if they have one weight."""
        same = (self.kind, self.transposed, self.options) == (other.kind, other.transposed, other.options)
        return same and self.weight.shape == other.weight.shape and (self.bias is None) == (other.bias is None)

    def without_tensors(self) -> Product:
        """A product that others can be compared with; its weight has a shape and no values."""
        weight = torch.empty_like(self.weight, device="meta")
        return replace(self, x=None, weight=weight, bias=None if self.bias is None else True)

    def layer(self, weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Module:
        """The torch layer that makes this product with `weight`, (O, ...), and `bias`."""
        made: Any
        if issubclass(self.kind, nn.Linear):
            made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        else:
            stride, padding, dilation, groups = self.options
            made = self.kind(
                weight.shape[1] * groups[0],
                weight.shape[0],
                tuple(weight.shape[2:]),  # type: ignore[arg-type]
                stride,
                padding,
                dilation,
                groups[0],
                bias=False,
                device="meta",
            )
        made.weight, made.bias = weight, bias
        layer: nn.Module = made
        return layer


def only_product(module: nn.Module, weight: nn.Parameter) -> tuple[Product, Tensor] | str:
    """The only product in the forward of `module`, and an input of the forward; the reason where there is none.

    It is found by calls with random inputs.
    weight: the parameter of `module` that the product's weight is, or is computed from, whatever the input is, in eval
    and in training mode alike. The bias is a parameter of the module, or None. The module's state is restored.
    """
    kind = type(module).__name__
    refused = f"{kind} is not nested: its forward makes no single product with its weight"
    found: list[list[Product | None]] = []
    for shape in _shapes(module, weight):
        try:
            found = [_products(module, weight, shape, seed=seed, training=seed == 2) for seed in range(3)]
            break
        except Exception as error:  # the user's forward may raise anything
            failed = f"its forward fails on a tensor {list(shape)}: {excerpt(error, 100)}"
            refused = f"{kind} is not nested: no product with its weight was found ({failed})"
    products = [product for each in found for product in each if product is not None]
    if not found or any(len(each) != 1 for each in found) or len(products) != len(found):
        return refused
    first, *others = products
    own = first.bias is None or any(first.bias is each for each in module.parameters(recurse=False))
    shapes = [weight.shape, weight.shape[::-1]] if weight.ndim == 2 else [weight.shape]
    fits = first.rows_first.shape in shapes and first.weight.dtype == weight.dtype
    fits = fits and (first.bias is None or first.bias.shape == first.rows_first.shape[:1])
    alike = all(first.like(other) and torch.equal(first.weight, other.weight) for other in others)
    return (first, _random(shape, weight)) if own and fits and alike else refused


def _products(
    module: nn.Module, weight: Tensor, shape: tuple[int, ...], *, seed: int, training: bool
) -> list[Product | None]:
    """Every product of a call with a random input of this shape; None for those of other kinds."""
    x = _random(shape, weight, seed)
    seen, before = _Products(), weight.detach().clone()
    with preserved_generators(), preserved(module), evaluating(module), torch.no_grad():
        version = weight._version
        module.train(training)
        with seen:
            module(x)
        written = weight._version != version or not torch.equal(weight, before)
    return [None] if written else seen.found  # a forward that writes into its weight makes no fixed product


def _random(shape: tuple[int, ...], weight: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(weight.detach())


def _shapes(module: nn.Module, weight: Tensor) -> list[tuple[int, ...]]:
    """Shapes of inputs that the module may take."""
    if weight.ndim == 2:
        rows, columns = weight.shape
        return [(2, columns), (2, rows)] if isinstance(module, nn.Linear) else [(2, rows), (2, columns)]
    groups = getattr(module, "groups", 1)
    dilation = max(_sizes(getattr(module, "dilation", 1), 1))
    stride = max(_sizes(getattr(module, "stride", 1), 1))
    size = dilation * (max(weight.shape[2:]) - 1) + 1 + 2 * stride
    return [(2, weight.shape[1] * groups, *[size] * (weight.ndim - 2))]


class _Products(TorchFunctionMode):
    """Notes the products that are made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the product, then call the function."""
        product = Product.of(func, args, kwargs or {})
        if product is not None or func in _OTHERS:
            self.found.append(product)
        return func(*args, **(kwargs or {}))


def _given(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _sizes(value: Any, dimensions: int) -> Any:
    """One size for each dimension, or a word for the padding."""
    if isinstance(value, str):
        return value
    listed = tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,)
    return listed * dimensions if len(listed) == 1 else listed
