"""Networks of the literature, with random weights, on which `bench networks` measures."""

from . import detection, images, language, mobile, others, recurrent, speech, tiny
from .network import Network, Size

__all__ = ["NETWORKS", "Network", "Size"]

FAMILIES = (images, mobile, detection, speech, language, recurrent, others, tiny)

NETWORKS: dict[str, Network] = {network.name: network for family in FAMILIES for network in family.NETWORKS}
"""Each network by its name."""
