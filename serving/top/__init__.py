"""`nested-sparse top`: what a running server does, read from its statistics and metrics."""
