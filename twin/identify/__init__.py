"""This package identifies the twin of an arm from the arm's recorded episodes.

    episodes ─► identify ─► Identified ─┬─ quantities   found beside assumed, with intervals; not all are observable
                                        └─ domain       the twin's, around what was found

Latency and response come from replaying the commands with the twin's own servos and physics.
"""

from twin.identify.identify import Identified, identify
from twin.identify.quantities import Quantity, table
from twin.identify.response import Response, response_of

__all__ = ["Identified", "Quantity", "Response", "identify", "response_of", "table"]
