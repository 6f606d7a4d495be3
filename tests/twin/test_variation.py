"""These tests check what is drawn for every episode, that it repeats, and that it reaches physics and images."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from isaac_fake import install

from protos.errors import InputError
from protos.schema import Schema
from twin import robots, tasks
from twin.env import VectorTwin, trials
from twin.kinematics import Kinematics
from twin.labs import Lab
from twin.physics import MujocoPhysics, make
from twin.randomize import DOMAINS, OF_MODEL, SPANS, Domain, Draws
from twin.world import ArmWorld

VARIED = Domain(
    latency_steps=(0, 1, 2),
    camera_delay_steps=(0, 1),
    gain=(0.7, 1.2),
    servo_stiffness=(0.3, 2.0),
    friction=(0.5, 2.0),
    object_mass_kg=(0.02, 0.3),
    object_size=(0.8, 1.2),
    object_height=(0.9, 1.1),
)
STILL = Domain(latency_steps=(0,))
UP = np.array([0, 0, 1, 0, 0, 0, 1], np.float32)
CUBE_M = 0.018


def drawn(order, seed=7):
    """Returns the conditions by slot and episode, drawn in the order of these slots."""
    draws, found = Draws(4, VARIED, seed), {}
    for slot in order:
        found[slot, sum(known == slot for known, _ in found)] = draws.next(slot)
    return found


def test_conditions_depend_on_seed_slot_and_episode_alone():
    assert drawn([0, 1, 2, 3, 0, 1]) == drawn([1, 1, 0, 3, 2, 0])
    assert len(set(drawn([0, 1, 2, 3, 0, 1]).values())) == 6
    assert drawn([0], seed=8) != drawn([0])


def test_conditions_fill_their_spans():
    found = [Draws(1, VARIED, seed).next(0) for seed in range(300)]
    for name in (*OF_MODEL, "gain"):
        values, (low, high) = np.array([getattr(one, name) for one in found]), getattr(VARIED, name)
        assert low <= values.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < values.max() <= high
    assert {one.latency_steps for one in found} == {0, 1, 2}
    assert {one.camera_delay_steps for one in found} == {0, 1}


def test_equal_ends_are_constants():
    rng = np.random.default_rng(0)
    for domain in (DOMAINS["standin"], VARIED.still):
        found = {replace(domain.conditions(rng), latency_steps=0, camera_delay_steps=0) for _ in range(20)}
        assert found == {replace(domain.middle, latency_steps=0, camera_delay_steps=0)}
        assert domain.varies(*SPANS) == ()
    assert asdict(DOMAINS["standin"].middle) | {"latency_steps": 1} == {
        "latency_steps": 1,
        "camera_delay_steps": 0,
        "gain": 0.85,
        "response": 1.0,
        "servo_stiffness": 0.4,
        "friction": 0.9,
        "object_mass_kg": 0.09,
        "object_size": 1.0,
        "object_height": 1.0,
        "colour_shift": 0.05,
    }


def test_a_constant_domain_keeps_one_model(make_twin, configurations):
    twin = make_twin(2, domain=DOMAINS["standin"])
    twin.reset(0, configurations("A", 1)[0])
    assert twin._physics._batch.models is None


def models_of(twin):
    """Returns the conditions and the compiled model of every slot's episode."""
    draws = Draws(twin.n, twin.domain, 3)
    return [(draws.next(slot), twin._physics._batch.models[slot]) for slot in range(twin.n)]


def started(make_twin, configurations, n, domain, **given):
    """Returns n twins at the starts of their first episodes of seed 3."""
    twin = make_twin(n, domain=domain, **given)
    twin.seed(3)
    for slot, start in enumerate(configurations("A", n)):
        twin.reset(slot, start)
    return twin


def test_every_slot_has_the_model_of_its_conditions(make_twin, configurations):
    for conditions, model in models_of(started(make_twin, configurations, 4, VARIED)):
        cube = model.body("cube")
        geom = int(cube.geomadr[0])
        assert cube.mass[0] == pytest.approx(conditions.object_mass_kg)
        assert model.geom_friction[geom, 0] == pytest.approx(conditions.friction)
        size = CUBE_M * conditions.object_size
        np.testing.assert_allclose(model.geom_size[geom], [size, size, size * conditions.object_height])
        stiffness = 4000 * conditions.servo_stiffness
        assert model.actuator("shoulder").gainprm[0] == pytest.approx(stiffness, rel=1e-6)


@pytest.mark.parametrize("name", tasks.names())
def test_a_body_is_scaled_with_all_its_parts(scene, name):
    """A model that is larger by the same number along every axis keeps its angles and all its proportions."""
    task = tasks.get(name)
    plain, large = (MujocoPhysics(scene.robot, task, Domain(object_size=(size, size)), 1).model for size in (1.0, 1.1))
    for body in task.bodies:
        geoms = [i for i in range(plain.ngeom) if plain.geom_bodyid[i] == plain.body(body).id]
        np.testing.assert_allclose(large.geom_quat[geoms], plain.geom_quat[geoms], atol=1e-12)
        np.testing.assert_allclose(large.geom_pos[geoms], 1.1 * plain.geom_pos[geoms], atol=1e-12)
        np.testing.assert_allclose(large.geom_size[geoms], 1.1 * plain.geom_size[geoms], atol=1e-12)


@pytest.mark.parametrize("name", tasks.names())
def test_what_is_larger_or_higher_rests_where_it_starts(scene, name):
    task = tasks.get(name)
    domain = replace(STILL, object_size=(0.9, 1.1), object_height=(0.9, 1.1))
    twin = VectorTwin(scene, task, n=6, domain=domain, seed=1, schema=Schema(side_px=16, wrist_px=16))
    rng = np.random.default_rng(0)
    for slot in range(6):
        twin.reset(slot, task.space.sample(rng, region="A"))
    before = {body: twin.state().bodies[body].copy() for body in task.bodies}
    for _ in range(5):
        twin.step(np.tile(UP * [0, 0, 0, 0, 0, 0, 1], (6, 1)).astype(np.float32))
    for body in task.bodies:
        np.testing.assert_allclose(twin.state().bodies[body], before[body], atol=3e-4)
    twin.close()


def test_gain_is_the_slots_own(make_twin, configurations):
    twin = started(make_twin, configurations, 4, replace(STILL, gain=(0.5, 1.5)))
    gains = np.array([Draws(4, twin.domain, 3).next(slot).gain for slot in range(4)])
    before = twin.state().commanded.copy()
    twin.step(np.tile(0.5 * UP, (4, 1)))
    np.testing.assert_allclose((twin.state().commanded - before)[:, 2], 0.5 * twin.task.action_scale[0] * gains)


def test_a_reset_leaves_the_episodes_of_other_slots_alone(make_twin, configurations):
    starts = configurations("B", 3)
    alone, disturbed = (started(make_twin, configurations, 2, VARIED, px=32) for _ in range(2))
    for k in range(4):
        if k:
            disturbed.reset(1, starts[k - 1])
        action = np.tile(0.4 * UP, (2, 1))
        alone.step(action)
        disturbed.step(action)
        seen, expected = disturbed.observe(), alone.observe()
        np.testing.assert_array_equal(seen.proprio[0], expected.proprio[0])
        np.testing.assert_array_equal(seen.side[0], expected.side[0])
        np.testing.assert_array_equal(seen.wrist[0], expected.wrist[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_an_episode_repeats(make_twin, configurations, threads):
    def shown(count):
        twin = started(make_twin, configurations, 4, DOMAINS["wide"], px=32, threads=count)
        for _ in range(3):
            twin.step(twin.expert_action())
        return twin.observe()

    one, other = shown(1), shown(threads)
    np.testing.assert_array_equal(one.side, other.side)
    np.testing.assert_array_equal(one.wrist, other.wrist)
    np.testing.assert_array_equal(one.proprio, other.proprio)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_late_image_is_an_earlier_one(make_twin, configurations, delay):
    prompt = started(make_twin, configurations, 2, STILL, px=32)
    late = started(make_twin, configurations, 2, replace(STILL, camera_delay_steps=(delay,)), px=32)
    seen = [prompt.observe()]
    for step in range(1, 5):
        for twin in (prompt, late):
            twin.step(np.tile(UP, (2, 1)))
        seen.append(prompt.observe())
        found, expected = late.observe(), seen[max(step - delay, 0)]
        np.testing.assert_array_equal(found.side, expected.side)
        np.testing.assert_array_equal(found.wrist, expected.wrist)
        np.testing.assert_array_equal(found.proprio, seen[-1].proprio)
    assert (seen[1].side != seen[2].side).any()


def red(images):
    """Counts the pixels (n,) that are the cube's."""
    pixels = images.astype(int)
    return ((pixels[..., 0] > 2 * pixels[..., 1]) & (pixels[..., 0] > 2 * pixels[..., 2])).sum((1, 2))


@pytest.mark.parametrize("exact", [False, True])
def test_a_larger_object_covers_more_pixels(scene, task, configurations, exact):
    """In slots of one twin, where the sizes are drawn, as in twins of one size."""
    (start,) = configurations("A", 1)

    def covered(size, n=1):
        domain, schema = replace(STILL, object_size=size), Schema(side_px=128, wrist_px=16)
        twin = VectorTwin(scene, task, n=n, domain=domain, seed=2, schema=schema, exact=exact)
        for slot in range(n):
            twin.reset(slot, start)
        found = red(twin.observe().side)
        twin.close()
        return found, twin._physics.scales[:, twin._physics.model.body("cube").id, 0]

    pixels = np.array([covered((size, size))[0][0] for size in (0.7, 1.0, 1.4)])
    assert pixels[0] < 0.75 * pixels[1] and 1.4 * pixels[1] < pixels[2]
    pixels, sizes = covered((0.6, 1.4), n=6)
    assert (np.diff(pixels[np.argsort(sizes)]) >= 0).all() and pixels.max() > 1.5 * pixels.min()


def test_colours_differ_between_episodes_and_bodies(scene, task, configurations):
    (start,) = configurations("A", 1)
    domain, schema = replace(STILL, colour_jitter=0.2), Schema(side_px=64, wrist_px=32)
    images = {}
    for exact in (False, True):
        twin = VectorTwin(scene, task, n=2, domain=domain, seed=2, schema=schema, exact=exact)
        for slot in range(2):
            twin.reset(slot, start)
        images[exact] = twin.observe()
        twin.close()
    table = np.s_[:, 50:62, 4:20]  # neither arm nor objects
    fast, exact = images[False], images[True]
    assert np.abs(np.diff(fast.side[table].astype(int), axis=0)).mean() > 5
    assert np.abs(np.diff(fast.wrist.astype(int), axis=0)).mean() > 3
    for a, b in ((fast.side, exact.side), (fast.wrist, exact.wrist)):
        assert np.abs(a.astype(int) - b).mean() < 4


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("region", ["A", "B"])
def test_experts_succeed_in_the_twin_of_a_run(name, region):
    assert trials(tasks.get(name), DOMAINS["wide"], region, 40, seed=1).successes >= 38


def test_an_engine_that_cannot_vary_says_what_it_lacks(monkeypatch):
    install(monkeypatch)
    robot, task = robots.get("ur5e"), tasks.get("pick_and_place")
    with pytest.raises(InputError, match=r"'isaac': friction=\(0.5, 1.0\): one value for all episodes needed"):
        make("isaac", robot, task, Domain(friction=(0.5, 1.0)), n=1)
    physics = make("isaac", robot, task, Domain(gain=(0.5, 1.0), object_size=(1.2, 1.2)), n=1)
    assert physics.model.geom("table").size[0] == 0.45
    assert physics.model.geom_size[physics.model.body("cube").geomadr[0], 0] == pytest.approx(1.2 * CUBE_M)
    physics.close()


def test_a_simulated_arm_draws_for_every_placing(scene, task, configurations):
    domain = replace(STILL, object_size=(0.8, 1.2), camera_delay_steps=(1,))
    world = ArmWorld(scene, task, Lab(domain=domain), schema=Schema(side_px=32, wrist_px=32), seed=3)
    heights = set()
    for start in configurations("A", 3):
        world.place(start)
        height = world.object_pose("cube")[2]
        heights.add(round(height, 5))
        for _ in range(3):
            world.advance(0.1)
        assert world.object_pose("cube")[2] == pytest.approx(height, abs=5e-4)
    assert len(heights) == 3
    before = world.render()[0]
    world.set_joint_targets(Kinematics(scene.robot).start_joints((-0.5, 0.1, 0.2))[0])
    world.advance(0.1)
    np.testing.assert_array_equal(world.render()[0], before)
    world.advance(0.1)
    assert (world.render()[0] != before).any()
