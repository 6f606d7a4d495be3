"""This package chooses initial configurations: the twin shows where the policy fails, and the arm practises there.

    twin evaluations ── set_success ──► guide ── next ───────► arm ───────────── report ──► guide
                                          ├───── next_scan ──► scanning twins ── report ──► guide
                                          └── state on disk (resume), history

S_target = {s0 : SR(s0) < tau} (TwinRL, arXiv 2602.09023), over the cells of the task's configuration space. The paper
leaves tau, the grid and the weighting open; `GuideSettings` documents ours.

    python -m services.guide --listen 127.0.0.1:7071 --settings guide.json --state guide_state.json

Doors: `GuideSettings`, `GuideServer`, `GuideClient`, `SteadyGuide`, `Draw`, `CellSuccess`.
"""

from services.guide.client import Draw, GuideClient
from services.guide.schedule import MOST_REFRESH, MOST_ROLLOUTS, CellSuccess, GuideSettings
from services.guide.server import GuideServer
from services.guide.steady import SteadyGuide

__all__ = [
    "MOST_REFRESH",
    "MOST_ROLLOUTS",
    "CellSuccess",
    "Draw",
    "GuideClient",
    "GuideServer",
    "GuideSettings",
    "SteadyGuide",
]
