"""`nested-sparse top`: what a running server does, read from its statistics and metrics.

Levels, outcomes and percentiles come from the metrics only. The protocol's ModelStatistics has no place for them, and
fields of our own would make its messages others than Triton's; so the server names the port of its metrics among
the extensions in ServerMetadata, "prometheus_metrics(9001)", where any string may stand.
"""
