"""Shared memory of this machine, which a request may name in place of a tensor's values where that is allowed."""
