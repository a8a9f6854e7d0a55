"""Int8: the part of the exporter that makes a graph compute in bytes (docs/int8.md)."""
