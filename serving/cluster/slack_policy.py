"""SlackPolicy: the number of replicas of a cluster, by the slack of its requests.

Ray pickles this module by value and runs it in its controller, so it imports nothing of ours.
"""

from __future__ import annotations

import math
from typing import Any

METRIC = "needed_replicas"
"""Figure that each replica reports, see Demand; a test compares the two names."""
MARGIN = 0.05
"""Of a replica: so much more than a whole number is needed before one more is started."""


class SlackPolicy:
    """An autoscaling policy of Ray Serve. Ray applies the bounds, delays and factors of autoscaling_config to it.

    In place of target_ongoing_requests: a replica here takes as many requests as their deadlines allow, so the number
    of those under way says little.
    """

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The replicas that are needed by all reports together; context: Ray's AutoscalingContext.

        The present number where no replica has reported yet, as after a start.
        """
        reports = (context.aggregated_metrics or {}).get(METRIC) or {}
        if not reports:
            return context.target_num_replicas, {}
        return max(1, math.ceil(sum(reports.values()) - MARGIN)), {}
