"""Sequences: requests that follow one another, whose state the server keeps between them."""
