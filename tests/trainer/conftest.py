"""Threads: one per test, because only then a resumed run equals an uninterrupted one bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))  # for small_models.py and others: pytest's importlib mode adds no folder
