"""An arm that stops in mid-episode: what was recorded is kept and marked, and the same start comes again."""

import numpy as np
import pytest
from test_loop import Guide, Policy, Script, Sink, World, tags

from actors import EpisodeRecorder
from actors.loop import EpisodeLoop
from protos.errors import ArmStopped
from protos.schema import Outcome

LOST = "link to the controller lost"


class StoppingWorld(World):
    """Stops at these calls, counted over the whole session: {"observe": 3} at the third look."""

    def __init__(self, scripts, **stops):
        super().__init__(1, scripts)
        self._stops, self._calls, self.is_stopped = stops, dict.fromkeys(("reset", "observe", "step"), 0), False

    def reset(self, slot, configuration):
        self._call("reset")
        super().reset(slot, configuration)

    def observe(self):
        self._call("observe")
        return super().observe()

    def step(self, action):
        self._call("step")
        return super().step(action)

    def mend(self, stop):
        assert self.is_stopped and str(stop) == LOST
        self.is_stopped = False
        return True

    def _call(self, name):
        assert not self.is_stopped, "nobody has mended it"
        self._calls[name] += 1
        if self._stops.get(name) == self._calls[name]:
            self.is_stopped = True
            raise ArmStopped(LOST)


def play(scripts, *, starts, mended=None, **stops):
    world, guide, sink = StoppingWorld(scripts, **stops), Guide(starts), Sink()
    loop = EpisodeLoop(world, Policy(), guide, EpisodeRecorder(tags()), sink, stopped=mended or world.mend)
    return world, guide, sink, loop


@pytest.mark.parametrize(("call", "number", "kept"), [("step", 8, 6), ("observe", 8, 6), ("observe", 26, 24)])
def test_a_stop_closes_the_episode_and_its_start_comes_again(call, number, kept):
    world, guide, sink, loop = play([Script(30), Script(3), Script(4)], starts=2, **{call: number})
    loop.run(lambda: False)
    stopped, again, following = sink.episodes()
    assert sum(one.steps for one in stopped) == kept
    assert [one.outcome for one in stopped] == [Outcome.RUNNING] * (len(stopped) - 1) + [Outcome.STOPPED]
    assert stopped[-1].observation.proprio[-1, 1] == kept, "the last thing that was seen"
    assert all(one.reward.sum() == 0 and np.isfinite(one.embedding).all() for one in stopped)
    assert [one.outcome for one in (*again, *following)] == [Outcome.SUCCESS] * 2
    assert [cell for _, cell in world.resets] == [0, 0, 1]
    assert [result.configuration.cell for result in guide.results] == [0, 1], "a stop is no result"
    assert (loop.stats.stopped, loop.stats.episodes, loop.stats.successes) == (1, 2, 2)


def test_a_success_whose_last_image_nobody_saw_is_tried_again():
    _, guide, sink, loop = play([Script(3), Script(5)], starts=1, observe=4)
    loop.run(lambda: False)
    assert [one.outcome for one in sink.segments] == [Outcome.STOPPED, Outcome.SUCCESS]
    assert [one.steps for one in sink.segments] == [2, 5]
    assert float(sink.segments[0].reward.sum()) == 0 and len(guide.results) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_kept_of_an_attempt_without_a_whole_step(number):
    _, _, sink, loop = play([Script(3), Script(4)], starts=1, observe=number)
    loop.run(lambda: False)
    assert [one.outcome for one in sink.segments] == [Outcome.SUCCESS] and loop.stats.stopped == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_on_the_way_to_a_start_loses_no_start(number):
    world, guide, sink, loop = play([Script(3), Script(4)], starts=2, reset=number)
    loop.run(lambda: False)
    assert [cell for _, cell in world.resets] == [0, 1] and len(guide.results) == 2
    assert {one.outcome for one in sink.segments} == {Outcome.SUCCESS}


@pytest.mark.parametrize("stops", [{"step": 8}, {"reset": 2}])
def test_a_stop_that_is_not_mended_ends_the_loop_with_what_was_recorded(stops):
    asked = []
    _, _, sink, loop = play([Script(30 if "step" in stops else 7)], starts=2, mended=asked.append, **stops)
    with pytest.raises(ArmStopped, match=LOST):
        loop.run(lambda: False)
    assert len(asked) == 1 and sink.segments
