"""Right: every RPC of the server is in the table."""

from __future__ import annotations

from nested_sparse.proto import messages
from nested_sparse.serving.rights.right import RIGHTS, Right, right_of

OPEN = {"ServerLive", "ServerReady", "ModelReady"}
"""Health: load balancers and orchestrators ask for it without a token."""


def test_every_rpc_of_the_service_is_in_the_table() -> None:
    service = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    paths = {f"/{messages.SERVICE_NAME}/{method.name}" for method in service.methods}
    assert paths == {path for path in RIGHTS if path.startswith(f"/{messages.SERVICE_NAME}/")}


def test_only_health_is_open() -> None:
    free = {path.rpartition("/")[2] for path, right in RIGHTS.items() if right is None}
    assert free == OPEN | {"Check", "Watch", "List"}


def test_what_changes_the_server_is_administration() -> None:
    changing = ("Load", "Unload", "Register", "Unregister", "Setting", "Settings")
    found = [right for path, right in RIGHTS.items() if path.endswith(changing)]
    assert len(found) == 8
    assert set(found) == {Right.ADMINISTRATION}


def test_an_rpc_that_the_table_lacks_is_administration() -> None:
    assert right_of("/inference.GRPCInferenceService/Future") is Right.ADMINISTRATION
