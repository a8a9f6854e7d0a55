"""Int8Stage: the fine-tuning of all levels together with the rounding of an int8 file (quantisation-aware training).

The row scales of an int8 file come from the densest level and hold for all levels. So all levels train together here,
as in Joint, also after a nesting that trained them one by one: a level's weights move together with the scale that they
share.
"""

from __future__ import annotations

from .model.int8 import round_to_int8
from .nestings.joint import Joint, JointStage
from .stage import Work


class Int8Stage(JointStage):
    """Trains all levels, rounded as in an int8 file; soft labels are those of the densest level."""

    name = "int8"
    lr_share = 0.1

    def __init__(self, work: Work) -> None:
        super().__init__(work, Joint(work.config.int8_epochs))

    def begin(self) -> None:
        """Begin with the levels as they are."""
        self.prepare()
        self.resume({})

    def prepare(self) -> None:
        """Make the buffers of the ranges."""
        round_to_int8(self.net, self.work.config.int8_keep_float)
