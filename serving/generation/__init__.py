"""Texts that a served model continues, token by token, as responses of a stream."""
