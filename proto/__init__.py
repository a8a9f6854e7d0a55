"""The wire: `open_inference.proto`, and the message classes made from it (`nested_sparse.proto.messages`)."""
