"""Identification recovers what was planted: in a twin whose world differs, and nothing where nothing differs."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.sim.demonstrations import expert_episodes
from protos.errors import InputError
from protos.schema import UNDER_WAY, Schema, Source
from twin import tasks
from twin.env import VectorTwin
from twin.identify import identify, response_of, table
from twin.identify.identify import latencies
from twin.identify.response import Response
from twin.identify.solve import Unknown, interval, solve
from twin.labs import Calibration
from twin.randomize import Domain
from twin.robots import UR5E
from twin.scene import synthetic_scene

SMALL = Schema(side_px=48, wrist_px=16)
TASK = tasks.get("pick_and_place")
SCENE = synthetic_scene(0.02)
OFF = Calibration(side_shift_m=(0.008, -0.006, 0.005), side_turn_rad=(0.01, -0.008))


def recorded(domain, count=5, scene=SCENE, schema=SMALL):
    """Returns the expert's demonstrations in a world."""
    with closing(VectorTwin(scene, TASK, n=count, domain=domain, seed=5, schema=schema)) as twin:
        episodes = expert_episodes(twin, {"A": count}, scene="s", seed=5)
    return [replace(episode, source=Source.REAL) for episode in episodes]


@pytest.fixture(scope="module")
def found():
    """Returns what is found of an arm that is late, soft, sluggish and carries 0.2 kg, seen from elsewhere."""
    world = Domain(
        latency_steps=(1.6,),
        response=(0.8, 0.8),
        servo_stiffness=(0.5, 0.5),
        object_mass_kg=(0.2, 0.2),
        exposure_stops=(-0.5, -0.3),
        white_balance=(0.1, 0.1),
        sensor_noise=(0.01, 0.01),
        disturbance=0.3,
    )
    return identify(SCENE, TASK, Domain(), recorded(world, scene=replace(SCENE, side=OFF.side(SCENE.side))))


def test_what_was_planted_is_recovered(found):
    by_name = {each.name: each for each in found.quantities}
    assert by_name["latency"].found == pytest.approx(1.6, abs=0.2)
    assert by_name["response"].found == pytest.approx(0.8, rel=0.03)
    assert by_name["servo stiffness"].found == pytest.approx(0.5, rel=0.1)
    assert by_name["object mass"].found == pytest.approx(0.2, rel=0.15)
    assert by_name["friction"].found is None


def test_the_twin_is_moved_to_what_was_found(found):
    by_name = {each.name: each.found for each in found.quantities}
    assert found.domain.response == pytest.approx((by_name["response"],) * 2)
    assert found.domain.object_mass_kg == pytest.approx((by_name["object mass"],) * 2)
    assert min(found.domain.latency_steps) < 1.6 < max(found.domain.latency_steps)
    assert found.domain.friction == Domain().friction


def test_the_camera_is_found_to_three_millimetres(found):
    side = found.scene(SCENE).side
    assert np.linalg.norm(np.subtract(side.eye, OFF.side(SCENE.side).eye)) < 0.003
    np.testing.assert_allclose(side.along / np.linalg.norm(side.along), OFF.side(SCENE.side).along, atol=0.004)


def test_a_scene_moves_as_a_whole_where_the_arm_stands_off_its_place(found):
    """What the camera shows of the table stays the same; the arm is where the base frame begins."""
    off = replace(found, calibration=replace(OFF, base_shift_m=(0.01, -0.02, 0.0), base_turn_rad=(0.0, 0.0, 0.1)))
    scene = off.scene(SCENE)
    before, after = OFF.side(SCENE.side).camera(48), scene.side.camera(48)
    np.testing.assert_allclose(
        after.project(scene.static.means[::50]), before.project(SCENE.static.means[::50]), atol=1e-3
    )


def test_the_light_is_found(found):
    by_name = {each.name: each.found for each in found.quantities}
    assert by_name["exposure"] == pytest.approx(-0.4, abs=0.1)
    assert by_name["white balance"] == pytest.approx(0.1, abs=0.02)
    assert found.domain.white_balance == pytest.approx((by_name["white balance"],) * 2)


def test_every_episode_may_have_a_latency_of_its_own():
    found = response_of(UR5E, TASK, recorded(Domain(latency_steps=(0, 1), disturbance=0.3), count=4))
    assert {round(each, 1) for each in found.latencies} == {0.0, 1.0}
    low, high = found.latency_interval
    assert low < found.latency_steps < high and high - low > 0.3


def test_episodes_that_do_not_tell_what_was_commanded_are_refused():
    for episode in (episodes := recorded(Domain(), count=1)):
        episode.observation.proprio[:, UNDER_WAY] = 0
    with pytest.raises(InputError, match="none has a free motion"):
        identify(SCENE, TASK, Domain(), episodes)


def test_latencies_are_drawn_around_what_the_episodes_showed():
    def of(*steps):
        return latencies(
            Response(
                latency_steps=float(np.mean(steps)),
                latency_interval=(0.0, 9.0),
                latencies=steps,
                response=1.0,
                response_interval=(1.0, 1.0),
                stiffness=1.0,
                stiffness_interval=(1.0, 1.0),
                rms_mm=0.0,
            )
        )

    assert of(1.59, 1.62, 1.6) == (1.4, 1.6, 1.8)
    assert of(0.01, 0.02) == (0.0, 0.2)
    assert of(1.0, 2.0)[0] <= 1.0 and of(1.0, 2.0)[-1] >= 2.0


@settings(max_examples=20)
@given(st.floats(-2, 2), st.floats(0.2, 3), st.integers(0, 100))
def test_the_solver_finds_own_and_common_numbers_of_noisy_lines(slope, scale, seed):
    """Episodes are lines y = own + slope x with outliers; the interval holds the slope's error."""
    rng = np.random.default_rng(seed)
    x, own = np.linspace(-1, 1, 30), rng.normal(size=12)
    data = [each + slope * x + scale * 0.05 * rng.normal(size=30) for each in own]
    data[0][3] += 50

    def residuals(own, common):
        return [(own[k, 0] + common[0] * x - data[k]) / (scale * 0.05) for k in range(12)]

    line = Unknown(start=0.0, step=1e-3)
    found = solve(residuals, np.zeros((12, 1)), ((line,), (line,)))
    assert found.common[0] == pytest.approx(slope, abs=0.05 * scale)
    assert np.abs(found.own[:, 0] - own).max() < 0.1 * scale
    low, high = interval(found.common_samples[:, 0])
    assert 0 < high - low < 0.1 * scale


def test_what_is_known_beforehand_holds_what_the_data_do_not_show():
    unknown = Unknown(start=3.0, step=1e-3, deviation=0.1)
    sure = 1e4
    found = solve(lambda _, both: [sure * np.array([both.sum() - 7.0])], np.empty((1, 0)), ((), (unknown,) * 2))
    np.testing.assert_allclose(found.common, [3.5, 3.5], atol=0.02)


def test_the_table_says_what_is_not_observable(found):
    lines = table(found.quantities).splitlines()
    assert lines[0].split()[:4] == ["quantity", "unit", "twin", "found"]
    assert any(line.startswith("friction") and "not observable" in line for line in lines)
