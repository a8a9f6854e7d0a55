"""REST of the Open Inference Protocol over HTTP; the metrics and the dashboard on the same port (extra `[http]`)."""
