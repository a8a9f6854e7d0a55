"""The cost of a call beside the model's run, against a gRPC server that does nothing."""
