"""Right: a kind of calls that a client may make, and the table of the RPCs that need it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from nested_sparse.proto import messages

from ..health import SERVICE_NAME as HEALTH


class Right(Enum):
    """One right. A client may have several; none includes another."""

    INFERENCE = "inference"
    READING = "reading"
    ADMINISTRATION = "administration"


_METHODS: Mapping[str, Right | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ModelReady": None,
    "ModelInfer": Right.INFERENCE,
    "ModelStreamInfer": Right.INFERENCE,
    "ServerMetadata": Right.READING,
    "ModelMetadata": Right.READING,
    "ModelConfig": Right.READING,
    "ModelStatistics": Right.READING,
    "RepositoryIndex": Right.READING,
    "SystemSharedMemoryStatus": Right.READING,
    "CudaSharedMemoryStatus": Right.READING,
    "RepositoryModelLoad": Right.ADMINISTRATION,
    "RepositoryModelUnload": Right.ADMINISTRATION,
    "SystemSharedMemoryRegister": Right.ADMINISTRATION,
    "SystemSharedMemoryUnregister": Right.ADMINISTRATION,
    "CudaSharedMemoryRegister": Right.ADMINISTRATION,
    "CudaSharedMemoryUnregister": Right.ADMINISTRATION,
    "TraceSetting": Right.ADMINISTRATION,
    "LogSettings": Right.ADMINISTRATION,
}
RIGHTS: Mapping[str, Right | None] = {
    **{f"/{messages.SERVICE_NAME}/{name}": right for name, right in _METHODS.items()},
    f"/{HEALTH}/Check": None,
    f"/{HEALTH}/Watch": None,
    f"/{HEALTH}/List": None,
    "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics": Right.READING,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Right.READING,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Right.READING,
}
"""The right that each RPC needs, by its path; None: open to everyone, because load balancers and orchestrators ask for
health without a token. TraceSetting and LogSettings read and write with one RPC, so they are administration."""


def right_of(path: str) -> Right | None:
    """The right that the RPC at `path` needs; administration for one that the table lacks."""
    return RIGHTS.get(path, Right.ADMINISTRATION)
