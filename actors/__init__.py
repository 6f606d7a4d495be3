"""This package acts: one episode loop for twin actors (`sim`), the arm (`real`) and everything that tests them.

    guide ──start──► EpisodeLoop ──observation──► policy ──decision──► environment ──► EpisodeRecorder ──► sink
                          ▲                                    operator may take over ──┘

    interfaces, loop, recorder   the loop and what it needs
    guides, sinks                where episodes start, where their segments go
    policies                     a stored policy, the learner's newest weights, none at all
    quarantine                   broken slots and starts stay out
    lab                          the protocol between `real` and the cameras and objects of `simulated_ur`
    sim, real, human, simulated_ur   twins on Ray, one UR arm, operators, a UR controller that is simulated

The rooms know nothing of each other: `real` has neither Ray nor the learner, twin actors have no torch.
"""

from actors.interfaces import Decision, Environment, EpisodeResult, Guide, Operator, Policy, Sink
from actors.loop import EpisodeLoop, LoopStats
from actors.recorder import EpisodeRecorder, EpisodeTags

__all__ = [
    "Decision",
    "Environment",
    "EpisodeLoop",
    "EpisodeRecorder",
    "EpisodeResult",
    "EpisodeTags",
    "Guide",
    "LoopStats",
    "Operator",
    "Policy",
    "Sink",
]
