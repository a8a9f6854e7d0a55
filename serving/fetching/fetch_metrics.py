"""FetchMetrics: the bytes, the failures and the publications of fetched models, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .fetch_counts import INTERNAL, REASONS
from .follower import Follower

_MODEL = ("model",)


class FetchMetrics:
    """Exports the counts of the followers, by the name of their model. A number that is not known yet is left out."""

    def __init__(self, followers: Mapping[str, Follower]) -> None:
        self._followers = followers

    def describe(self) -> Iterator[Metric]:
        """As prometheus_client's collectors: no metric is named twice in this registry."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client's collectors, from any thread."""
        nbytes = CounterMetricFamily(
            "nested_sparse_fetched_bytes", "Bytes of manifests and files that came from the file server", labels=_MODEL
        )
        failures = CounterMetricFamily(
            "nested_sparse_fetch_failures",
            f"Tries to fetch a model that failed, by reason: {', '.join(sorted({*REASONS.values(), INTERNAL}))}",
            labels=(*_MODEL, "reason"),
        )
        for name, each in self._followers.items():
            nbytes.add_metric((name,), each.nbytes)
            for reason in sorted({*REASONS.values(), INTERNAL}):  # each from 0 on, so that its first rise is seen
                failures.add_metric((name, reason), each.counts.failures[reason])
        yield from (nbytes, failures)
        for field, metric, text in (
            ("published_serial", "fetch_published_serial", "Serial of the manifest that came last"),
            ("published_levels", "fetch_published_levels", "Levels of the manifest that came last"),
            ("served_serial", "fetch_served_serial", "Serial of the publication that serves"),
            ("served_levels", "fetch_served_levels", "Levels of it that are here and serve"),
            (
                "looked_s",
                "fetch_last_success_timestamp_seconds",
                "Unix time of the last look after which all that is published was here",
            ),
        ):
            gauge = GaugeMetricFamily(f"nested_sparse_{metric}", text, labels=_MODEL)
            for name, each in self._followers.items():
                value = getattr(each.counts, field)
                if value is not None:
                    gauge.add_metric((name,), value)
            yield gauge
