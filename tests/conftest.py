"""Comes before every test file: those that import onnxruntime themselves send nothing either."""

from __future__ import annotations

import nested_sparse  # noqa: F401 -- switches telemetry off
