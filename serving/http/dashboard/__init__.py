"""The dashboard: a read-only page that shows a server at work, from its own metrics."""
