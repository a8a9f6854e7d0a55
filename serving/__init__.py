"""How a model is reached: gRPC server, metrics, command line."""

import os

# gRPC's core reads this when it is imported, and every module of ours that imports it lies under this package. Its own
# log repeats a peer's GOAWAY text as it came, line ends and escape sequences and all, on stderr. What it could tell us
# otherwise reaches us as exceptions and statuses. A user who sets the variable has the last word.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
