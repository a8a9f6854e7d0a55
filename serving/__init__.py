"""How a model is reached: gRPC server, metrics, command line."""
