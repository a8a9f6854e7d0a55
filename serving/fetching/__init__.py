"""Fetching: models that come from a file server, level by level, and stay up to date."""
