"""Statistics: the counts of a served model as the protocol's ModelStatistics."""

from __future__ import annotations

from nested_sparse.proto import messages
from nested_sparse.proto.messages import InferBatchStatistics, InferStatistics, StatisticDuration
from nested_sparse.runtime.scheduling import SameSize

from .level_counts import Tally
from .served_model import ServedModel


def statistics_message(model: ServedModel, tally: Tally) -> messages.ModelStatistics:
    """Counts and times of one version of a model since it was loaded.

    Of a request, `compute_input` is the time from its message to its arrays, `queue` the rest of the time until its run
    begins, `compute_infer` the run, `compute_output` the time from the arrays to the answer's message. There is no
    cache, so its counts are 0. May block for a moment: it asks the system which pages are in memory.
    """
    stats = model.engine.stats()
    resident = model.resident_bytes()
    return messages.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=tally.last_inference_ms,
        inference_count=tally.samples,
        execution_count=stats.runs,
        inference_stats=InferStatistics(
            success=StatisticDuration(count=tally.successes, ns=tally.success_ns),
            fail=StatisticDuration(count=tally.failures, ns=tally.failure_ns),
            queue=StatisticDuration(count=tally.successes, ns=tally.queue_ns),
            compute_input=StatisticDuration(count=tally.successes, ns=tally.input_ns),
            compute_infer=StatisticDuration(count=tally.successes, ns=tally.compute_ns),
            compute_output=StatisticDuration(count=tally.successes, ns=tally.output_ns),
            cache_hit=StatisticDuration(),
            cache_miss=StatisticDuration(),
        ),
        batch_stats=[_batch(tally, size, runs) for size, runs in sorted(stats.same_size.items())],
        memory_usage=[] if resident is None else [messages.MemoryUsage(type="CPU", id=0, byte_size=resident)],
    )


def _batch(tally: Tally, size: int, runs: SameSize) -> InferBatchStatistics:
    input_ns, output_ns = tally.by_batch.get(size, (0, 0))
    return InferBatchStatistics(
        batch_size=size,
        compute_input=StatisticDuration(count=runs.count, ns=input_ns),
        compute_infer=StatisticDuration(count=runs.count, ns=runs.compute_ns),
        compute_output=StatisticDuration(count=runs.count, ns=output_ns),
    )
