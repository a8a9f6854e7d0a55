"""Limits of what clients may hold of the server: connections, uploads and calls; and their wait for a handler."""
