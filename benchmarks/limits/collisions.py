"""This benchmark drives the arm towards 1,000 postures in which it would touch itself, the table or an obstacle.

    any free posture ─► another one not far from it, in which MuJoCo finds a contact ─► its TCP pose, as the target
    target ─► UrArm.servo ─► limits ─► stream, guard ─► plant, which follows late ─► measured joints ─► MuJoCo: contacts

Whether anything touches is MuJoCo's word on a model of the twin's arm, from the measured joints; the guard's shapes
have no part in it. The same targets without the guard tell how many of them lead to a contact.
"""

import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import mujoco
import numpy as np

from actors.real.arm import ArmSettings, UrArm
from actors.real.collisions import Guard
from actors.real.link import Link
from actors.real.safety import Limits, LimitSettings
from benchmarks.limits.plant import Plant
from benchmarks.limits.postures import KINEMATICS
from benchmarks.measure import hardware, table
from protos.errors import ArmStopped
from protos.schema import F64
from protos.space import Box
from twin.objects import ScannedObject
from twin.objects.hull import HullSettings, convex_parts
from twin.robots import FINGERS, UR5E
from twin.robots.mjcf import VISUAL, numbers, robot_mjcf
from twin.rotations import matrix_from_vector, quaternion_from_matrix, turn_between, vector_from_matrix
from twin.surfaces import cylinder, surface_splats

KINDS = ("self", "table", "obstacle")
EVERYWHERE = Box(x=(-1.3, 1.3), y=(-1.3, 1.3), z=(-0.4, 1.6))
"""A work box that holds all that the arm reaches: nothing but the guard keeps it from a contact."""
WALL = Box(x=(-0.5, 0.5), y=(0.5, 0.6), z=(0.0, 0.7))
POST_AT, POST_RADIUS_M, POST_HEIGHT_M = (-0.45, -0.45, 0.0, 0.4), 0.09, 0.45
"""An obstacle cut from a scan: where it stood, and its size."""
NEAR_M = 0.02
"""A start has no contact within this distance."""
FARTHEST_RAD, STEP_RAD, INTO_RAD = 0.8, 0.04, 0.05
"""A target lies at most so far from its start, a little behind the first contact; it is looked for in steps."""
PERIOD_S, ACTIONS = 0.1, 14
STILL_RAD, STANDS_S = 2e-4, 0.3
"""An arm whose joints have turned less in a period stands; one that was held comes to rest within this time."""
STEP_M, TURN_RAD = 0.05, 0.14
"""Most that one action asks for."""


class Contacts:
    """MuJoCo's contacts of the twin's arm with itself, the table, a wall and a scanned post."""

    def __init__(self, post: ScannedObject) -> None:
        walls = np.array([WALL.x, WALL.y, WALL.z])
        placed = post.base_from_object
        place = f'pos="{numbers(*placed[:3, 3])}" quat="{numbers(*quaternion_from_matrix(placed[:3, :3]))}"'
        parts = "".join(
            f'<geom name="post_{k}" type="mesh" mesh="{post.name}_{k}" {place}/>' for k in range(len(post.parts))
        )
        self._model = mujoco.MjModel.from_xml_string(
            f"""<mujoco><compiler angle="radian" autolimits="true"/><asset>{post.assets()}</asset><worldbody>
            <geom name="table" type="plane" size="3 3 .1"/>
            <geom name="wall" type="box" pos="{numbers(*walls.mean(1))}" size="{numbers(*np.ptp(walls, axis=1) / 2)}"/>
            {parts}{robot_mjcf(UR5E, 1.0).replace(VISUAL, "")}</worldbody>
            <contact><exclude body1="base" body2="shoulder"/></contact></mujoco>"""
        )
        self._model.geom_margin[:] = NEAR_M
        self._data = mujoco.MjData(self._model)
        self._arm = [int(self._model.joint(name).qposadr[0]) for name in UR5E.joints]
        for name in FINGERS:
            self._data.qpos[int(self._model.joint(name).qposadr[0])] = UR5E.gripper.travel_m

    def kinds(self, joints: F64, within_m: float = 0.0) -> set[str]:
        """Returns what is nearer than `within_m` at joints (6,): of `KINDS`. Fingers may touch the table."""
        self._data.qpos[self._arm] = joints
        mujoco.mj_fwdPosition(self._model, self._data)
        found = set()
        contacts = self._data.contact
        for one, other in np.unique(contacts.geom[contacts.dist < within_m], axis=0).tolist():
            found |= self._kind(one, other)
        return found

    def _kind(self, one: int, other: int) -> set[str]:
        bodies = [self._model.body(int(self._model.geom_bodyid[geom])).name for geom in (one, other)]
        names = {self._model.geom(geom).name for geom in (one, other)} - {""}
        if not names:
            return set() if set(bodies) == set(FINGERS) else {"self"}
        if names == {"table"}:
            return set() if set(bodies) & {*FINGERS, "shoulder"} else {"table"}
        return {"obstacle"}


@dataclass(frozen=True)
class Case:
    """A start and a target not far from it: joints (6,) of both, what touches what there, and how the arm follows."""

    start: F64
    goal: F64
    kind: str
    delay_s: float
    gain: float


@dataclass
class Result:
    """The outcome for all targets that led to a contact without the guard."""

    drawn: int = 0
    """Targets tried, those included on whose way nothing touched although something would at their end."""
    targets: Counter[str] = field(default_factory=Counter)
    """Number of those that led to a contact without the guard, by what touched in their posture."""
    touched: Counter[str] = field(default_factory=Counter)
    """Number of those that led to one with the guard, by what touched."""
    postures: int = 0
    """Measured postures with the guard."""
    clipped: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0


class WatchedPlant(Plant):
    """Looks at the measured joints every 10 ms, and keeps those that have moved."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng)
        self.path, self.measured = [self.joints], 0

    def stall(self, seconds: float) -> None:
        while seconds > 1e-9:
            super().stall(min(seconds, 0.01))
            self.measured += 1
            if np.abs(self.joints - self.path[-1]).max() > STILL_RAD:
                self.path.append(self.joints)
            seconds -= 0.01


def scanned_post() -> ScannedObject:
    """Returns an upright post as a scan has it: splats and one convex hull."""
    points, normals = cylinder(POST_RADIUS_M, POST_HEIGHT_M / 2, 0.02)
    points = points + np.array([0.0, 0.0, POST_HEIGHT_M / 2])
    return ScannedObject(
        name="post",
        splats=surface_splats((points, normals), 0.02, (0.5, 0.5, 0.5)),
        parts=convex_parts(points, HullSettings()),
        mass_kg=1.0,
        stood_at=POST_AT,
        provenance="made in metres, not scanned",
    )


def cases(contacts: Contacts, rng: np.random.Generator) -> Iterator[Case]:
    """Draws starts and targets, one of every kind in turn, without end."""
    waiting: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for kind in itertools.cycle(KINDS):
        while not waiting[kind]:
            if (case := _case(contacts, rng)) is not None:
                waiting[case.kind].append(case)
        yield waiting[kind].pop()


def _case(contacts: Contacts, rng: np.random.Generator) -> Case | None:
    """Returns the first contact in a random direction from a random posture; None where one is or none comes."""
    start, way = rng.uniform(-3, 3, 6), rng.normal(size=6)
    if contacts.kinds(start, NEAR_M):
        return None
    way *= STEP_RAD / np.linalg.norm(way)
    for step in range(1, int(FARTHEST_RAD / STEP_RAD)):
        if kinds := contacts.kinds(start + step * way):
            goal = start + (step + INTO_RAD / STEP_RAD) * way
            return Case(start, goal, min(kinds), rng.choice([0.0, 0.1, 0.2]), rng.uniform(0.7, 1.0))
    return None


def measure(count: int, seed: int) -> Result:
    """Drives the arm towards targets without the guard and, where that led to a contact, once more with it."""
    result, began, rng = Result(), time.monotonic(), np.random.default_rng(seed)
    post = scanned_post()
    contacts, plant, limits = Contacts(post), WatchedPlant(rng), Limits(EVERYWHERE, LimitSettings())
    with tempfile.TemporaryDirectory() as folder:
        post.save(cut := Path(folder) / post.name)
        settings = ArmSettings(obstacles=(WALL, cut), hold_after_s=1.0)
        with (
            mock.patch.object(Link, "connect", lambda *_: Link(plant, plant, 30.0)),
            UrArm(settings, limits, armed=True) as arm,
        ):
            for case in cases(contacts, rng):
                result.drawn += 1
                with mock.patch.object(Guard, "met", lambda *_: ""):
                    touched = _drive(arm, plant, case, contacts)
                if not touched:
                    continue
                limits.clipped.clear()
                result.touched.update(_drive(arm, plant, case, contacts))
                result.targets[case.kind] += 1
                result.postures += plant.measured
                result.clipped["collision"] += limits.clipped["collision"] > 0
                if result.targets.total() >= count:
                    break
    result.took_s = time.monotonic() - began
    return result


def _drive(arm: UrArm, plant: WatchedPlant, case: Case, contacts: Contacts) -> set[str]:
    """Asks for one target, as far as one action goes, until something touches or the arm stands; returns what does."""
    plant.unlock()
    plant.place(case.start, delay_s=case.delay_s, gain=case.gain)
    arm.try_to_hold("a start")
    plant.path, plant.measured = [case.start], 0
    position, rotation = (found[0] for found in KINEMATICS.forward(case.goal[None]))
    still = 0
    for _ in range(ACTIONS):
        try:
            if arm.held:
                arm.release()
            arm.servo(_towards(arm.anchor(), position, rotation), PERIOD_S)
        except ArmStopped:
            plant.stall(STANDS_S)
        if touched := {kind for joints in plant.path[1:] for kind in contacts.kinds(joints)}:
            return touched
        still = still + 1 if len(plant.path) == 1 else 0
        if still > STANDS_S / PERIOD_S:
            break
        del plant.path[:-1]
    return set()


def _towards(begin: F64, position: F64, rotation: F64) -> F64:
    """Returns the pose (6,) on the way from one to another that is one action away."""
    at = matrix_from_vector(begin[3:])
    way, turn = position - begin[:3], turn_between(at, rotation)
    share = min(1.0, STEP_M / max(float(np.linalg.norm(way)), 1e-9))
    turned = min(1.0, TURN_RAD / max(float(np.linalg.norm(turn)), 1e-9))
    return np.concatenate([begin[:3] + share * way, vector_from_matrix(matrix_from_vector(turned * turn) @ at)])


def run(count: int, seed: int) -> str:
    """Measures, and returns a table; AssertionError when a guarded arm touches anything."""
    result = measure(count, seed)
    assert not result.touched, f"contacts of a guarded arm: {dict(result.touched)}"
    rows = [
        ("targets drawn", result.drawn),
        ("with a contact on their way, without the guard", result.targets.total()),
        *((f"of these: {kind}", result.targets[kind]) for kind in KINDS),
        ("with a contact, with the guard", len(result.touched)),
        ("slowed or held by the guard", result.clipped["collision"]),
        ("postures measured with the guard", result.postures),
    ]
    return f"{hardware()}\n\n{table(['targets that would collide', 'number'], rows)}\n\n{result.took_s:.0f} s"
