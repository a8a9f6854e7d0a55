"""Access to a model: gRPC server, metrics, command line."""

import os

# gRPC's core reads this when it is imported, and every module of ours that imports it lies under this package. Its own
# log repeats a peer's GOAWAY text as it came, line ends and escape sequences and all, on stderr. All other
# things that it logs reach us as exceptions and statuses, too. A value that the user has set is kept.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
