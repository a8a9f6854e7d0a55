"""HeaderLimit: the size that a checkpoint's header may have. It needs no numpy, so a download can ask for it."""

MAX_HEADER_NBYTES = 100_000_000
"""The limit of the safetensors library."""
