"""Dashboard: the files of the page, and the figures that it draws."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from .history import History

PAGE = files(__package__) / "page"
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
PATHS: Mapping[str, str] = {
    "/": "index.html",
    "/dashboard/page.css": "page.css",
    "/dashboard/page.js": "page.js",
}
POINTS_PATH = "/dashboard/points"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
"""The page loads nothing from elsewhere, runs no other script, and shows in no other page."""


class Dashboard:
    """The page's files by their paths, which hold no figures, and the history, which needs the right of reading."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._files = {path: (PAGE / name).read_bytes() for path, name in PATHS.items()}

    def file(self, path: str) -> tuple[str, bytes] | None:
        """The content type and the bytes of the file at `path`; None: there is none."""
        data = self._files.get(path)
        return None if data is None else (KINDS[PATHS[path].rpartition(".")[2]], data)
