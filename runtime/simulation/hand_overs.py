"""HandOvers: the waits of each request for a core where it goes from one thread to the next, apart from its run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HandOvers:
    """Seconds by number of arrival, each array of shape (count,).

    front_s: from the client to the server's event loop; the scheduler does not know of it. start_s: from the loop to a
    worker that has nothing to do. reply_s: from the worker's end back to the loop, which the policy is told.
    client_s: from the loop to the client.
    """

    front_s: NDArray[np.float64]
    start_s: NDArray[np.float64]
    reply_s: NDArray[np.float64]
    client_s: NDArray[np.float64]

    @classmethod
    def drawn(cls, count: int, mean_ms: float, seed: int) -> HandOvers:
        """Exponentially distributed, independent waits of `mean_ms` on average.

        Beside busy processes on two cores, the 0.5 and 0.9 quantiles were measured as 5.3 and 13.8 ms for start_s, as
        3.6 and 11.6 ms for the three others together (docs/decisions/057): means of 6, and of 2 ms each.
        """
        drawn = np.random.default_rng(seed).exponential(mean_ms / 1e3, (4, count)) if mean_ms else np.zeros((4, count))
        return cls(*drawn)
