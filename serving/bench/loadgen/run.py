"""measure(): one run of LoadGen's Server scenario, and what its log and the clients' counts say."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from nested_sparse.errors import BenchError
from nested_sparse.proto import messages

from ..serving.raw_client import OPTIONS, random_request
from .system import PATIENCE_S, System

SAMPLES = 64
"""Different requests, which LoadGen draws from."""
SUMMARY = "mlperf_log_summary.txt"
NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class ServerScenario:
    """Poisson arrivals at `qps`. `percentile` of the queries are to end within `bound_ms` of their scheduled time.

    seconds, queries: the least of each. seed: of the arrivals and of the choice of samples.
    """

    qps: float
    bound_ms: float
    seconds: float = 60.0
    queries: int = 100
    percentile: float = 0.99
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """valid: LoadGen's verdict, early stopping included. *_ms: latencies from the scheduled times, late ones included.

    statuses, levels: see System.
    """

    valid: bool
    qps: float
    queries: int
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    levels: dict[int, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure(address: str, model: str, scenario: ServerScenario) -> Outcome:
    """Run the scenario against the server at `address`. Raises BenchError: no LoadGen, no such model, no verdict."""
    loadgen = _loadgen()
    with grpc.insecure_channel(address, options=OPTIONS) as channel, tempfile.TemporaryDirectory() as folder:
        requests = _requests(channel, address, model)

        def complete(query: int) -> None:
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query, 0, 0)])

        system = System(channel, requests, scenario.bound_ms / 1e3, complete)
        sut = loadgen.ConstructSUT(system.issue, system.flush)
        samples = loadgen.ConstructQSL(len(requests), len(requests), lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(sut, samples, _settings(loadgen, scenario), _log_settings(loadgen, folder))
        finally:
            system.close()
            loadgen.DestroyQSL(samples)
            loadgen.DestroySUT(sut)
        facts = read_summary(Path(folder, SUMMARY).read_text(encoding="utf-8"))
    try:
        return Outcome(
            valid=facts["Result is"] == "VALID",
            qps=float(facts["Completed samples per second"]),
            queries=sum(system.statuses.values()),
            p50_ms=float(facts["50.00 percentile latency (ns)"]) / NS_PER_MS,
            p99_ms=float(facts["99.00 percentile latency (ns)"]) / NS_PER_MS,
            statuses=dict(system.statuses),
            levels=dict(sorted(system.levels.items())),
        )
    except KeyError as missing:
        raise BenchError(f"LoadGen's summary has no line {missing}; expected the format of version 6") from None


def read_summary(text: str) -> dict[str, str]:
    """The lines "name : value" of LoadGen's summary."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ModuleNotFoundError:
        raise BenchError("this benchmark is MLPerf's LoadGen: pip install mlcommons-loadgen") from None
    return mlperf_loadgen


def _requests(channel: grpc.Channel, address: str, model: str) -> list[bytes]:
    ask = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelMetadata")
    try:
        told = ask(messages.ModelMetadataRequest(name=model).SerializeToString(), timeout=PATIENCE_S)
    except grpc.RpcError as error:
        raise BenchError(f"{address}: cannot tell the inputs of model {model!r}: {error.details()}") from None
    metadata = messages.ModelMetadataResponse.FromString(told)
    return [random_request(metadata, seed) for seed in range(SAMPLES)]


def _settings(loadgen: Any, scenario: ServerScenario) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = loadgen.TestScenario.Server
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.server_target_qps = scenario.qps
    settings.server_target_latency_ns = round(scenario.bound_ms * NS_PER_MS)
    settings.server_target_latency_percentile = scenario.percentile
    settings.min_duration_ms = round(scenario.seconds * 1e3)
    settings.min_query_count = scenario.queries
    settings.schedule_rng_seed = settings.sample_index_rng_seed = settings.qsl_rng_seed = scenario.seed
    return settings


def _log_settings(loadgen: Any, folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = folder, False
    settings = loadgen.LogSettings()
    settings.log_output, settings.enable_trace = output, False
    return settings
