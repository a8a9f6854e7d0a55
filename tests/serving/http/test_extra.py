"""Extra: a server without the extra [http], which says what to install."""

import pytest

from nested_sparse.errors import ServingError
from nested_sparse.serving.server import ServerConfig


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr("nested_sparse.serving.server.find_spec", lambda name: None)
    with pytest.raises(ServingError, match=r"nested-sparse\[http\]"):
        ServerConfig(http_port=0)
    ServerConfig(metrics_port=0)  # which needs no extra
