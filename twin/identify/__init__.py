"""This package identifies the twin of an arm from the arm's recorded episodes.

    episodes ─► identify ─► Identified ─┬─ quantities    found beside assumed, with intervals; not all are observable
                                        ├─ domain        the twin's, around what was found
                                        └─ calibration   where the side camera and the arm stand in the scene

Latency, response and load come from replaying the commands with the twin's own servos and physics, camera and colours
from laying the twin's images on the recorded ones.
"""

from twin.identify.identify import Identified, identify
from twin.identify.quantities import Quantity, table
from twin.identify.response import Response, response_of

__all__ = ["Identified", "Quantity", "Response", "identify", "response_of", "table"]
