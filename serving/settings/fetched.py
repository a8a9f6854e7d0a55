"""Fetched: the models of the settings that come from a file server.

This module loads neither numpy nor gRPC: a start asks for the first bytes of a model, and imports the rest meanwhile.
"""

from __future__ import annotations

import os
from pathlib import Path

from nested_sparse.errors import InputError

from ..fetching.address import Address
from ..fetching.followers import Followers
from ..signature import PublicKey
from .settings import Settings


def followers_of(settings: Settings) -> Followers | None:
    """All that fetches models; None where there are no URLs. Raises InputError, ServingError."""
    fetching, key = settings.fetching, settings.security.check_signature
    if not fetching.urls:
        return None
    return Followers(
        [Address(url) for url in fetching.urls],
        fetching.fetch_dir or fetched_folder(),
        fetching.fetch_max_mb << 20,
        key=None if key is None else PublicKey(key),
        ca=fetching.fetch_ca,
        token_file=fetching.fetch_token_file,
        timeout_s=fetching.fetch_timeout_s,
        interval_s=fetching.fetch_interval_s,
    )


def fetched_folder() -> Path:
    """The default folder of fetched models: under $XDG_DATA_HOME, or ~/.local/share. Raises InputError."""
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        data = named if named.is_absolute() else Path.home() / ".local/share"
    except RuntimeError:
        raise InputError("this user has no home folder for fetched models; name one (--fetch-dir)") from None
    return data / "nested-sparse" / "fetched"
