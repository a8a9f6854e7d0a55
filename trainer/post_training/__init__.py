"""Post-training nesting: levels from a pre-trained model and a few hundred samples, without training."""

from .levels import nest_pretrained

__all__ = ["nest_pretrained"]
