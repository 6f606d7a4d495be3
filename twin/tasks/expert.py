"""This module is what scripted experts are made of: pure numpy functions, for the twin and for the scripted operator.

Every height they aim at falls continuously with the error (a funnel), and the tool turns while it travels:

    height of the tool                      reach:  far above the object, down onto it as the error shrinks
      \\_                    _/              close:  aligned and low
        \\__              __/                carry:  lifted, down as the target comes near
           \\____________/                   leave:  let go over the target, and up
            error -> 0

A rule that switches between heights teaches a cloned policy to hover at the switch.

    state ─► reach(state, body, Hold) ─► Reach ─┐
    state ─► the task's own carry ─► Aim ───────┴─► act ─► action (n, 7)
"""

import math
from dataclasses import dataclass

import numpy as np

from protos.schema import ACTION_DIM, F32, F64, GRIPPER_ACTION, Bools
from twin.rotations import TOOL_DOWN, YAW_LIMIT_RAD, yaw_of
from twin.tasks.base import Hold, Task, TaskState

OPEN, CLOSE = 1.0, -1.0
RISE_M = 0.03
"""Rise of the tool per step after letting go, and after a missed grasp."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """An aim is the pose that the tool should be commanded to."""

    position: F64  # (n, 3)
    yaw: F64  # (n,) turn about the vertical from `TOOL_DOWN` [rad]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """A reach is the grasp of n slots: the way to it and how far it is."""

    aim: Aim
    holding: Bools  # (n,)
    missed: Bools  # (n,) the fingers were told to close and have not got it
    free: Bools  # (n,) the fingers are too far apart to hold it
    aligned: Bools  # (n,) closing now would grasp it


def reach(state: TaskState, body: str, hold: Hold) -> Reach:
    """Approaches a body from above: down as the horizontal error and the turn shrink, then closed."""
    tool, thing = state.tool, state.bodies[body]
    off = np.hypot(*(thing - tool)[:, :2].T)
    grasp_z = thing[:, 2] + hold.height_m
    above = np.abs(tool[:, 2] - grasp_z)
    yaw = yaw_of(state.tool_rotation @ TOOL_DOWN.T)
    turn = wrapped(yaw_of(state.rotations[body]) - yaw, hold.turn_rad)
    skew = off + 0.05 * np.abs(turn)  # a turn of 0.1 rad counts as much as 5 mm
    z = grasp_z + 0.04 * ramp(skew, 0.008, 0.022) + 0.05 * ramp(skew, 0.022, 0.06)
    filled = (state.grasp_width > hold.width_m[0]) & (state.grasp_width < hold.width_m[1])
    return Reach(
        aim=Aim(position=np.column_stack([thing[:, :2], z]), yaw=yaw + turn),
        holding=state.told_to_close & (off < 0.02) & (above < hold.slip_m) & filled,
        missed=state.told_to_close & ~((off < 0.02) & (above < min(0.018, hold.slip_m))),
        free=state.grasp_width >= hold.width_m[1],
        aligned=(skew < hold.near_m) & (above < hold.near_m + 0.001),
    )


def act(state: TaskState, grasp: Reach, carry: Aim, done: Bools, action_scale: tuple[float, float]) -> F32:
    """Returns the actions (n, 7): reach, close, carry while the object is held, leave when `done`."""
    commanded, yaw = state.commanded, yaw_of(state.commanded_rotation @ TOOL_DOWN.T)
    rise = commanded + np.array([0, 0, RISE_M])
    leave = np.where((state.told_to_close | ~grasp.free)[:, None], commanded, rise)  # fingers may be late and slow
    cases = [done, grasp.holding, grasp.missed]
    goal = np.select([case[:, None] for case in cases], [leave, carry.position, rise], grasp.aim.position)
    goal_yaw = np.select(cases, [yaw, carry.yaw, yaw], grasp.aim.yaw)
    grip = np.select(cases, [OPEN, CLOSE, OPEN], np.where(grasp.aligned | state.told_to_close, CLOSE, OPEN))
    metres, radians = action_scale
    action = np.zeros((len(commanded), ACTION_DIM), np.float32)
    action[:, :3] = np.clip((goal - commanded) / metres, -1, 1)
    if radians > 0:
        within = np.clip(wrapped(goal_yaw, 2 * np.pi), -YAW_LIMIT_RAD, YAW_LIMIT_RAD)  # and never the way through pi
        action[:, 5] = np.clip((within - yaw) / radians, -1, 1)
    action[:, GRIPPER_ACTION] = grip
    return action


def over(state: TaskState, body: str, target: F64, free: F64) -> F64:
    """Returns tool positions (n, 2) that bring a held body over `target` (n, 2); `free` (n,) 0 stays, 1 goes."""
    aim = target - (state.bodies[body] - state.tool)[:, :2]
    return state.commanded[:, :2] + free[:, None] * (aim - state.commanded[:, :2])


def wrapped(angle: F64, period: float) -> F64:
    """Returns the angle modulo `period` that is nearest to 0; 0 with period 0, where all angles are the same."""
    return (angle + period / 2) % period - period / 2 if period > 0 else 0 * angle


def ramp(x: F64, low: float, high: float) -> F64:
    """Returns 0 below `low`, 1 above `high`, and a straight line in between."""
    return np.clip((x - low) / (high - low), 0, 1)


GRASP_STEPS, SET_DOWN_STEPS, EXTRA_STEPS = 6, 6, 3
"""Control steps that an expert needs to close its fingers and lift, to lower and let go, and for a further target."""


def steps_left(task: Task, state: TaskState) -> F64:
    """Estimates the control steps (n,) that an expert needs from here, on an arm that follows at once.

    Reach and grasp count while the object is not held, then the way to the first fixed body, which turns the object
    meanwhile, then every further fixed body that is still there.
    """
    metres, _ = task.action_scale
    thing, grasp = state.bodies[task.space.manipulated], reach(state, task.space.manipulated, task.hold)
    to_thing = np.abs(np.add(thing, [0, 0, task.hold.height_m]) - state.tool).max(1) / metres
    left = np.where(grasp.holding, 0.0, to_thing + GRASP_STEPS)
    if task.fixed_bodies:
        first, *others = task.fixed_bodies
        left += np.abs(state.bodies[first] - thing)[:, :2].max(1) / metres + SET_DOWN_STEPS
        left += EXTRA_STEPS * np.sum([state.has(name) for name in others], axis=0) if others else 0
    return np.where(task.succeeded(state), 0.0, left)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A seat says how a body fits into a socket."""

    high_m: float
    """Height of the body's origin above the socket's when it is seated."""
    turn_rad: float
    """Turning the body by this much changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """A tolerance says how near its seat a body must be: off the socket's axis, above its seat, and turned."""

    off_m: float
    high_m: float
    turn_rad: float = math.inf


def misfit(state: TaskState, body: str, socket: str, seat: Seat) -> tuple[F64, F64, F64]:
    """Returns a body's distance off a socket's axis and above its seat (n,) [m], and the turn (n,) it lacks [rad]."""
    offset = state.bodies[body] - state.bodies[socket]
    turn = yaw_of(state.rotations[socket]) - yaw_of(state.rotations[body])
    return np.hypot(offset[:, 0], offset[:, 1]), offset[:, 2] - seat.high_m, wrapped(turn, seat.turn_rad)


def carry_in(state: TaskState, body: str, socket: str, seat: Seat, hold: Hold) -> Aim:
    """Carries a held body over a socket, turns it meanwhile, and lowers it: slowly at the end, and without force."""
    off, _, turn = misfit(state, body, socket, seat)
    seated = state.bodies[socket][:, 2] + seat.high_m + hold.height_m
    skew = off + 0.03 * np.abs(turn)
    lifted = ramp(state.tool[:, 2] - seated, 0.01, 0.03)
    z = seated - 0.004 + 0.03 * ramp(skew, 0.004, 0.010) + 0.03 * ramp(skew, 0.010, 0.06)
    fast = 0.06 * ramp(state.commanded[:, 2] - seated, 0.015, 0.06)
    z = np.maximum(z, state.commanded[:, 2] - 0.005 - fast / 2)
    z = np.maximum(z, state.tool[:, 2] - 0.008 - fast)
    sideways = over(state, body, state.bodies[socket][:, :2], np.maximum(lifted, 1 - ramp(off, 0.02, 0.04)))
    return Aim(position=np.column_stack([sideways, z]), yaw=yaw_of(state.tool_rotation @ TOOL_DOWN.T) + turn)
