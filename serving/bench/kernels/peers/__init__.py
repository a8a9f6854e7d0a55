"""Other engines on the same weights: each in its own environment, driven by JSON lines, taking turns with ours."""
