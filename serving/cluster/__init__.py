"""The server on several machines: replicas behind the gRPC ingress of Ray Serve (extra `[ray]`).

A replica holds models, schedulers and policies as `nested-sparse serve` does. The ingress is one process on each
machine, which Ray starts. It speaks the same protocol, and sends each call to a replica. Decision 056 says why the
handlers of the ingress are ours.
"""
