"""A classifier proposes at the arm's table that the task is solved; a person overrules it, or lets it stand."""

import numpy as np
import pytest
import torch

from actors import EpisodeLoop, EpisodeRecorder, EpisodeTags
from actors.guides import ListGuide
from actors.human import TakeoverSettings
from actors.policies import NoPolicy
from actors.real.settings import RealSettings
from actors.real.table.proposing import ProposalSettings, Proposer
from actors.sinks import NoSink
from benchmarks.operator.inside import InsideRobot
from policy.reward import Guard, RewardClassifier, RewardSettings, save_reward
from protos.errors import InputError
from protos.schema import Outcome, Schema, Source
from twin import labs, tasks
from twin.scene import synthetic_scene

TASK, TINY = tasks.get("pick_and_place"), Schema(side_px=16, wrist_px=16)
GUARD = Guard(low=(-0.03, -0.03, -0.01), high=(0.03, 0.03, 0.06), opens=True)
TAGS = EpisodeTags(actor="arm", incarnation="1", task=TASK.name, scene="", instruction="", source=Source.REAL)
ANSWER_S = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a classifier that takes every image for solved, so that its guard decides alone."""
    classifier = RewardClassifier(RewardSettings(task=TASK.name, target="target", schema=TINY, steps=2, guard=GUARD))
    with torch.no_grad():
        classifier.head[2].weight.zero_()
        classifier.head[2].bias.fill_(4.0)
    folder = tmp_path_factory.mktemp("reward")
    save_reward(folder, classifier)
    return folder


class Table:
    """The table of a robot whose person says one word once a success is proposed, and notes where the tool was."""

    def __init__(self, folder, word):
        self.robot = InsideRobot(synthetic_scene(), TASK, labs.get("standin", TASK), TINY, seed=0, sees=False)
        self.said, self.places, self._word = [], [], word
        settings = ProposalSettings(folder=folder, answer_s=ANSWER_S)
        self.robot.environment.proposer = Proposer(settings, TASK.name, TINY, say=self.said.append)
        self.is_solved, self.robot.table.judge = self.robot.table.judge, self._judge

    def _judge(self):
        if not self.said:
            return Outcome.RUNNING
        self.places.append(self.robot.environment.commanded)
        return self._word

    def attempt(self):
        """Returns the outcome of one attempt of the scripted operator."""
        guide = ListGuide(TASK.space.spread(np.random.default_rng(1), region="A", rollouts=1))
        operator = self.robot.operator(TakeoverSettings(always=True))
        EpisodeLoop(self.robot.environment, NoPolicy(), guide, EpisodeRecorder(TAGS), NoSink(), operator).run(
            lambda: False
        )
        return guide.results[0].outcome


def test_a_proposal_stands_that_nobody_overrules(folder):
    table = Table(folder, Outcome.RUNNING)
    assert table.attempt() is Outcome.SUCCESS
    assert table.is_solved() is Outcome.SUCCESS, "the simulator agrees"
    assert table.said[0].startswith("solved? proposed: yes (0.98). Within 1 s failure")
    assert table.said[1:] == ["solved, as proposed."]
    waited = table.places[: round(10 * ANSWER_S)]
    assert len(waited) == 10 and np.ptp(waited, axis=0).max() == 0.0, "the arm stands while it may be overruled"


def test_a_person_overrules_it(folder):
    table = Table(folder, Outcome.FAILURE)
    assert table.attempt() is Outcome.FAILURE
    assert table.said[1:] == ["overruled."] and len(table.places) == 1
    assert table.robot.environment.proposer.overruled == 1


def test_without_its_guard_nothing_is_proposed(folder, tmp_path):
    """The attempt is the same, but the fingers would have to be closed at its end."""
    shut = Guard(low=GUARD.low, high=(0.03, 0.03, 0.0), opens=False)
    classifier = RewardClassifier(RewardSettings(task=TASK.name, target="target", schema=TINY, steps=2, guard=shut))
    save_reward(tmp_path, classifier)
    table = Table(tmp_path, Outcome.RUNNING)
    assert table.attempt() is Outcome.TIMEOUT and table.said == []


def test_a_classifier_of_other_images_is_refused(folder):
    with pytest.raises(InputError, match="this arm does 'pick_and_place' with 64 and 64"):
        Proposer(ProposalSettings(folder=folder), TASK.name, Schema())


def test_the_stand_in_judges_by_itself(folder):
    with pytest.raises(InputError, match="the stand-in judges by itself"):
        RealSettings(reward=ProposalSettings(folder=folder))


def test_a_person_has_a_moment_to_overrule():
    with pytest.raises(InputError, match=r"reward.answer_s=0.2: must be 1 to 30"):
        ProposalSettings(folder="reward", answer_s=0.2)
