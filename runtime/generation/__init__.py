"""Text that a model writes, token by token, each at a level of its own."""

from __future__ import annotations

from .generate import Generator, generate
from .generation import Generation, Token
from .text_model import TextModel, text_model
from .text_request import TextRequest

__all__ = [
    "Generation",
    "Generator",
    "TextModel",
    "TextRequest",
    "Token",
    "generate",
    "text_model",
]
