"""MemoryRpcs: the protocol's methods for shared memory."""

from __future__ import annotations

from typing import Any

from nested_sparse.errors import UnsupportedError
from nested_sparse.proto import messages

from .regions import Regions


class MemoryRpcs:
    """Registers regions for requests. regions: None where shared memory is not allowed: every call raises."""

    def __init__(self, regions: Regions | None) -> None:
        self._regions = regions

    async def system_shared_memory_status(
        self, request: messages.SystemSharedMemoryStatusRequest, context: Any
    ) -> messages.SystemSharedMemoryStatusResponse:
        """One region, or all. Raises NotFoundError."""
        response = messages.SystemSharedMemoryStatusResponse()
        for region in self._allowed().named(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.nbytes
        return response

    async def system_shared_memory_register(
        self, request: messages.SystemSharedMemoryRegisterRequest, context: Any
    ) -> messages.SystemSharedMemoryRegisterResponse:
        """Open a region. Raises ExistsError, NotFoundError, InputError, TooLargeError."""
        self._allowed().register(request.name, request.key, request.offset, request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, request: messages.SystemSharedMemoryUnregisterRequest, context: Any
    ) -> messages.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all."""
        self._allowed().unregister(request.name)
        return messages.SystemSharedMemoryUnregisterResponse()

    async def cuda_shared_memory_status(
        self, request: messages.CudaSharedMemoryStatusRequest, context: Any
    ) -> messages.CudaSharedMemoryStatusResponse:
        """There is never one."""
        return messages.CudaSharedMemoryStatusResponse()

    async def cuda_shared_memory_register(
        self, request: messages.CudaSharedMemoryRegisterRequest, context: Any
    ) -> messages.CudaSharedMemoryRegisterResponse:
        """Raises UnsupportedError."""
        raise UnsupportedError("This server computes on the CPU and has no memory of a GPU; send the values instead.")

    async def cuda_shared_memory_unregister(
        self, request: messages.CudaSharedMemoryUnregisterRequest, context: Any
    ) -> messages.CudaSharedMemoryUnregisterResponse:
        """There is never one to forget, which is no error."""
        return messages.CudaSharedMemoryUnregisterResponse()

    def _allowed(self) -> Regions:
        if self._regions is None:
            raise UnsupportedError("Shared memory is off; start the server with --allow-shared-memory.")
        return self._regions
