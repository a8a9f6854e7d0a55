"""OwnForward: a user's module of which the forward stays, but its product with a weight is made by a layer inside it.

So convolutions and linear layers of a user's own class are nested: timm's Conv2dSame and StdConv2d, Hugging Face's
Conv1D, and torch's convolutions with padding other than zeros. The rest of the forward runs, and is exported, as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nested_sparse.errors import InputError

from .modes import evaluating
from .preserved import preserved, preserved_generators
from .product import Product
from .structure import tensors_in

INNER = "inner"
"""Name of the layer in the module."""


class OwnForward(nn.Module):
    """The user's module, with `inner` in place of its weight and bias. Mixed into the module's own class.

    The weight and the bias can still be read under their names: those of `inner`. Where the forward computes another
    weight from its own (weight standardisation), `inner` has the computed one, as it was when the model was nested.
    """

    _product: Product
    _names: dict[str, str]
    _turned: bool
    _computed: bool
    _hidden: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The user's forward. Raises InputError: it makes another product with a computed weight than before."""
        with _Routed(self._modules[INNER], self._product) as routed:
            answer = super().forward(*args, **kwargs)
        if self._computed and not routed.count:
            raise InputError(
                f"{type(self).__name__}: its forward makes another product with its computed weight than it did when "
                "it was nested; name the module in keep_dense"
            )
        return answer

    def __getattr__(self, name: str) -> Any:
        """The weight and the bias of `inner`, under the names that the module has for them."""
        names = self.__dict__.get("_names", {})
        if name not in names:
            return super().__getattr__(name)
        value = getattr(self._modules[INNER], names[name])
        if names[name] != "weight":
            return value
        value = value.t() if self._turned else value
        return torch.full_like(value, torch.nan) if self._hidden else value

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For copies and pickles, to which the class that was made on the way has no name."""
        own = getattr(super(), "__getstate__", None)  # before Python 3.11, only classes that define it have it
        return _empty, (type(self).__mro__[2],), dict(self.__dict__) if own is None else own()


class _Routed(TorchFunctionMode):
    """Lets `inner` make the products that are like `product`. count: number of these."""

    def __init__(self, inner: nn.Module | None, product: Product) -> None:
        super().__init__()
        self._inner, self._product, self.count = inner, product, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `inner` or the function."""
        found = Product.of(func, args, kwargs or {})
        if found is None or not found.like(self._product):
            return func(*args, **(kwargs or {}))
        self.count += 1
        assert self._inner is not None
        return self._inner(found.x)


def route(module: nn.Module, weight: nn.Parameter, product: Product) -> nn.Module:
    """Let a layer inside `module`, which is returned, make `product`; in place.

    weight: the parameter from which the product's weight is made.
    """
    names = {next(name for name, held in module._parameters.items() if held is weight): "weight"}
    if product.bias is not None:
        names |= {next(name for name, held in module._parameters.items() if held is product.bias): "bias"}
    value = product.rows_first.detach()
    same = value.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    unchanged = same and value.stride() == weight.stride()
    own = (
        weight if unchanged else nn.Parameter(value.clone(memory_format=torch.contiguous_format), weight.requires_grad)
    )
    inner = product.layer(own, product.bias)
    inner.train(module.training)
    for name in names:
        del module._parameters[name]
    module._modules[INNER] = inner
    module.__dict__ |= {
        "_names": names,
        "_turned": value.shape != weight.shape or (same and not unchanged),
        "_computed": not same,
        "_product": product.without_tensors(),
        "_hidden": False,
    }
    module.__class__ = _class(type(module))
    return inner


@torch.no_grad()
def reads_weight_elsewhere(module: nn.Module, weight: nn.Parameter, product: Product, x: Tensor) -> bool:
    """Whether more than the product depends on the weight. `module` is a copy, which is routed; x: its input."""
    with preserved_generators(), evaluating(module):
        try:
            with preserved(module):
                expected = [value for _, value in tensors_in(module(x))]
            route(module, weight, product)
            module.__dict__["_hidden"] = True
            got = [value for _, value in tensors_in(module(x))]
        except Exception:  # the user's forward may raise anything when it sees such a weight
            return True
    return any(not torch.equal(one.isnan(), other.isnan()) for one, other in zip(expected, got, strict=True))


def _class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (OwnForward, kind), {"__module__": kind.__module__})


def _empty(kind: type[nn.Module]) -> nn.Module:
    made = _class(kind)
    return made.__new__(made)
