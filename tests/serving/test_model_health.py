"""ModelHealth: statuses of versions that come and go."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from grpc_health.v1 import health_pb2

from nested_sparse.serving.health import NOT_SERVING, SERVING, HealthServicer
from nested_sparse.serving.model_health import MOST_GONE, ModelHealth


class Model:
    """In place of a served one, which is not stuck."""

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version = name, str(version)
        self.engine = SimpleNamespace(stats=lambda: SimpleNamespace(stuck=False))


class Models:
    """In place of a dataplane: the latest version of each model, and which of them are stuck."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.stuck: set[Model] = set()

    def put(self, name: str, version: int) -> None:
        self.models[name] = Model(name, version)

    def every(self) -> list[Model]:
        return list(self.models.values())


class NotFoundError(Exception):
    pass


class Context:
    """In place of gRPC's."""

    async def abort(self, code: object, details: str) -> None:
        raise NotFoundError(details)


def status(servicer: HealthServicer, service: str) -> int | None:
    """That of a service; None where there is no such service."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        return int(asyncio.run(servicer.Check(request, Context())).status)
    except NotFoundError:
        return None


@pytest.fixture
def servicer() -> HealthServicer:
    return HealthServicer()


def test_versions_that_went_are_remembered_up_to_a_number(servicer: HealthServicer) -> None:
    """A server whose versions change every minute does not grow."""
    models = Models()
    health = ModelHealth(servicer, models)  # type: ignore[arg-type]
    models.put("other", 1)
    last = MOST_GONE + 50
    for version in range(last + 1):
        models.put("net", version)
        health.update()
    assert status(servicer, f"net/{last}") == status(servicer, "net") == status(servicer, "other/1") == SERVING
    assert status(servicer, f"net/{last - 1}") == status(servicer, f"net/{last - MOST_GONE}") == NOT_SERVING
    assert status(servicer, f"net/{last - MOST_GONE - 1}") is None
    assert (
        len(servicer._statuses) == len(health._told) == MOST_GONE + 6
    )  # those of now: the server's two, two of a model


def test_a_model_that_comes_back_is_not_among_those_that_went(servicer: HealthServicer) -> None:
    models = Models()
    health = ModelHealth(servicer, models)  # type: ignore[arg-type]
    for version in range(MOST_GONE + 50):
        models.put("net", version)
        models.put("other", 1)
        health.update()
        del models.models["other"]
        health.update()
        assert status(servicer, "other") == NOT_SERVING
    models.put("other", 1)
    health.update()
    assert status(servicer, "other") == status(servicer, "other/1") == SERVING


def test_a_watcher_hears_that_its_version_is_unknown(servicer: HealthServicer) -> None:
    """And that it is there again."""

    class Told(Context):
        def __init__(self) -> None:
            self.statuses: list[int] = []

        async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
            self.statuses.append(answer.status)

    async def heard() -> list[int]:
        told = Told()
        servicer.set("net/1", SERVING)
        task = asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(service="net/1"), told))
        for change in (lambda: servicer.forget("net/1"), lambda: servicer.set("net/1", NOT_SERVING)):
            await asyncio.sleep(0.01)
            change()
        await asyncio.sleep(0.01)
        task.cancel()
        return told.statuses

    assert asyncio.run(heard()) == [SERVING, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN, NOT_SERVING]
