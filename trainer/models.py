"""Models: the former name of `nested_sparse.trainer.zoo`."""

from .zoo import *  # noqa: F403
from .zoo import __all__ as __all__
