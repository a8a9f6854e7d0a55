"""How a nested model is made: nesting, training, export. The one folder that imports torch."""

from nested_sparse.trainer.export import export
from nested_sparse.trainer.nested_model import NestedModel, nest

__all__ = ["NestedModel", "export", "nest"]
