"""This module is one arm at its table: everything that belongs to it, and the episode loop's environment made of it.

held?   a person says "go on" ─► gripper activated (the first time) ─► arm released
reset   gripper open ─► lift ─► tool to its start ─► objects placed ─► settle
step    action × scale ─► limits ─► servo for one control period ─► executed action, success?
observe images, TCP pose, velocity, wrench, gripper, motion under way
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import numpy as np

from actors.human import ObjectPoses, Person, ScriptedOperator
from actors.interfaces import Operator
from actors.lab import LabClient
from actors.real.arm import ARRIVED_M
from actors.real.dashboard import check_ready
from actors.real.driver.client import Arm, ArmClient
from actors.real.gripper import Gripper, RobotiqGripper
from actors.real.safety import CRAWL_M_S, Limits
from actors.real.settings import ConsoleLab, RealSettings
from actors.real.table.cameras import Cameras, LabCameras, UsbCameras, look
from actors.real.table.hands import ConsoleHands, Hands, LabHands, PersonHands
from actors.real.table.proposing import Proposer
from actors.real.table.terminal import Terminal
from protos.errors import ArmHeld, ArmStopped, InputError
from protos.process import Closing
from protos.proprioception import proprioception, tool_vector
from protos.schema import (
    ACTION_DIM,
    CONTROL_HZ,
    F32,
    F64,
    GRIPPER_ACTION,
    Configuration,
    Observation,
    Outcome,
    Step,
)
from twin import tasks
from twin.randomize import Disturbance
from twin.rotations import TOOL_DOWN, about_z, matrix_from_vector, turn_between, upright, vector_from_matrix
from twin.tasks import TOOL, Task

log = logging.getLogger(__name__)
T = TypeVar("T")

LIFT_BELOW_TOP_M = 0.03
"""Resets cross the table this far below the top of the work box."""
OPENING_S, SETTLE_S = 0.4, 0.3
GENTLE_STEPS = 5
"""The stream's velocity changes in small steps while a person acts, and for so many control steps in all at the end."""
RESET_ATTEMPTS = 3
"""A reset that a limit stops is tried again after the operator freed the tool."""


class Robot(Closing):
    """Opens the arm, its gripper, its cameras and the person at the table together, and closes them together.

    Arm, gripper and cameras can be connected anew after a stop; the environment and the person stay. A context manager:
    leaving it holds the arm.
    """

    def __init__(self, settings: RealSettings, *, disturbance: float = 0.0, person: Person | None = None) -> None:
        """Connects; moves nothing. Raises InputError with a word about `--arm` when the arm is not allowed to move."""
        self.settings, self.task, self.person = settings, tasks.get(settings.task), person
        self._open, self._connection = ExitStack(), ExitStack()
        self._arms: list[ArmClient] = []
        try:
            self._check_ready()
            if not settings.armed:
                self._refuse()
            self._begin(disturbance)
        except BaseException:
            self.close()
            raise

    def _check_ready(self) -> None:
        arm = self.settings.arm
        check_ready(arm.host, arm.connect_timeout_s, arm.pendant, arm.model)

    def _refuse(self) -> None:
        """Shows the arm, has the cameras' images confirmed, and raises InputError."""
        self._connect_arm()
        if isinstance(self.settings.lab, ConsoleLab):
            _confirm_cameras(self.settings, self.settings.lab)
        raise InputError('the arm is not armed: clear the workspace, then start with "--arm" (or armed: true)')

    def _begin(self, disturbance: float) -> None:
        """Makes the environment; the arm is connected last: whatever else takes long or fails does so before."""
        hands, self._poses = self._lab()
        proposer = self._proposer()
        arm, gripper, cameras = self._connect()
        self.environment = RealEnvironment(
            arm,
            gripper,
            cameras,
            hands,
            self.task,
            disturbance=disturbance,
            seed=self.settings.seed,
            proposer=proposer,
        )
        if self.person is not None:
            self.person.robot, self.environment.is_away = self.environment, self.person.is_away

    def _connect(self) -> tuple[Arm, Gripper, Cameras]:
        """Connects what a stop may lose; images and fingers are looked at before there is an arm."""
        settings = self.settings
        cameras = self._cameras()
        self._connection.callback(cameras.close)
        cameras.read()
        gripper = RobotiqGripper(settings.arm.host, settings.gripper, clock=lambda: self.arm.time_s)
        self._connection.callback(gripper.close)
        gripper.opening()
        self._connect_arm()
        return self.arm, gripper, cameras

    def reconnect(self) -> None:
        """Leaves arm, gripper and cameras and connects them anew; moves nothing. Raises as the constructor does.

        A person is asked before the next motion, as before the first one.
        """
        self.disconnect()
        self._check_ready()
        try:
            self.environment.connect(*self._connect())
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Holds the arm and leaves it, with gripper and cameras."""
        self._connection.close()

    def _connect_arm(self) -> None:
        settings, limits = self.settings, Limits(self.task.work_box, self.settings.limits)
        self.arm = self._connection.enter_context(ArmClient(settings.arm, limits, armed=settings.armed))
        self._arms.append(self.arm)
        state = self.arm.observe()
        position, joints = np.round(state.pose[:3], 3).tolist(), np.round(np.degrees(state.joints), 1).tolist()
        log.info("arm at %s: TCP %s m, joints %s degrees", settings.arm.host, position, joints)

    def _lab(self) -> tuple[Hands, ObjectPoses | None]:
        settings, lab = self.settings, self.settings.lab
        if isinstance(lab, ConsoleLab):
            terminal = Terminal()
            self._cameras: Callable[[], Cameras] = lambda: UsbCameras(
                lab.side, lab.wrist, settings.schema, lab.references
            )
            return self._judged(ConsoleHands(terminal), terminal), None
        client = LabClient(settings.arm.host, lab.port, timeout_s=lab.timeout_s)
        self._open.callback(client.close)
        self._cameras = lambda: LabCameras(client, settings.schema)
        return self._judged(LabHands(client), None), client

    def _judged(self, hands: Hands, terminal: Terminal | None) -> Hands:
        return hands if self.person is None else PersonHands(hands, self.person, terminal)

    def _proposer(self) -> Proposer | None:
        settings = self.settings
        if settings.reward is None:
            return None
        return Proposer(settings.reward, settings.task, settings.schema, say=Terminal().say)

    def operator(self, *, always: bool) -> Operator | None:
        """Returns the operator of the settings, None for "none"; with `always` a demonstrator."""
        if self.person is not None or self.settings.operator == "none":
            return self.person
        if self._poses is None:
            raise InputError('operator "scripted" sees objects only on the stand-in; choose "person" or "none"')
        takeover = replace(self.settings.takeover, always=always)
        return ScriptedOperator(self.task, self.environment, self._poses, takeover)

    def summary(self) -> str:
        """Returns the deeds of the safety layer in one line."""
        counted = sum((arm.limits.clipped for arm in self._arms), Counter[str]())
        clipped = ", ".join(f"{count} by {name}" for name, count in counted.items()) or "none"
        holds = sum(arm.holds for arm in self._arms)
        stopped = f"stopped by a limit {self.environment.stops} times"
        proposer = self.environment.proposer
        judged = f"; {proposer.proposed} successes proposed, {proposer.overruled} overruled" if proposer else ""
        return f"commands clipped: {clipped}; held by the watchdog {holds} times; {stopped}{judged}"

    @property
    def worked_s(self) -> float:
        """Seconds of the robot's clock that this session was connected, as of the newest state."""
        return sum(arm.worked_s for arm in self._arms)

    def close(self) -> None:
        """Holds the arm and closes everything."""
        self.disconnect()
        self._open.close()


class RealEnvironment:
    """Satisfies `actors.interfaces.Environment` with a single slot.

    `disturbance` is the strength of noise on the commanded motion while demonstrations are made, so that they show how
    to come back; the action stored is then the clean one (DART, Laskey et al. 2017). Without it the stored action
    is the one left by the limits.
    """

    n = 1

    def __init__(
        self,
        arm: Arm,
        gripper: Gripper,
        cameras: Cameras,
        hands: Hands,
        task: Task,
        *,
        disturbance: float = 0.0,
        seed: int = 0,
        proposer: Proposer | None = None,
    ) -> None:
        self._arm, self._gripper, self._cameras, self._hands, self.task = arm, gripper, cameras, hands, task
        self._is_disturbed = disturbance > 0
        self._disturbance = Disturbance(1, disturbance, np.random.default_rng(seed))
        self.proposer = proposer
        self._steps = self._solved_for = 0
        self._is_gripper_active = False
        self._waits_for, self._waits_since = "", 0.0
        self._is_running, self._gentle_steps = False, 0
        self.is_by_person = False
        """Set before a step whose action is a person's: it does not count towards the task's time."""
        self.is_away: Callable[[], bool] = lambda: False
        """True while a demonstrator lets the arm wait."""
        self.stops = 0
        """Number of times that a limit stopped the arm."""

    def connect(self, arm: Arm, gripper: Gripper, cameras: Cameras) -> None:
        """Goes on with other connections, after a stop."""
        self._arm, self._gripper, self._cameras = arm, gripper, cameras
        self._is_gripper_active = self._is_running = False

    def hold(self, why: str) -> None:
        """Holds the arm: somebody it works with is away. A person is asked before it moves again."""
        if not self._waits_for:
            self._arm.try_to_hold(why)
            self._waits_for, self._waits_since = why, time.monotonic()

    def reset(self, slot: int, configuration: Configuration) -> None:
        """Brings tool and objects to their starts. The arm moves: people stand clear until objects are asked for.

        A person is asked first where the arm is held, be it that a limit stopped it in the episode before.
        """
        for attempt in range(1, RESET_ATTEMPTS + 1):
            try:
                self._bring(configuration)
            except ArmStopped as stop:
                if attempt == RESET_ATTEMPTS:
                    raise
                self._note(stop)
            else:
                break
        self._disturbance.reset(0)
        if self.proposer is not None:
            self.proposer.begin(configuration)
        self._steps = self._solved_for = self._gentle_steps = 0
        self._is_running = True
        log.info("an episode begins")

    def _bring(self, configuration: Configuration) -> None:
        x, y, z, yaw = self.task.pose(configuration, TOOL)
        self._with_consent(lambda: self._gripper.command(is_open=True))
        self._with_consent(lambda: self._arm.rest(OPENING_S))
        self._with_consent(lambda: self._arm.move_to(self._lifted()))
        self._with_consent(lambda: self._arm.move_to(np.concatenate([[x, y, z], _tool_down(yaw)])))
        self._hands.place(configuration)
        self._arm.release()
        self._with_consent(lambda: self._arm.rest(SETTLE_S))

    def _with_consent(self, motion: Callable[[], T]) -> T:
        """Runs a motion that needs no fresh decision; one that is held on its way begins anew once a person says so."""
        while True:
            self._ask()
            try:
                return motion()
            except ArmHeld as hold:
                log.info("held: %s", hold)

    def _ask(self) -> bool:
        """Asks the person at the table before anything moves again, where that is due; returns True if it was."""
        reasons = [self._arm.held] if self._arm.held else []
        if self._waits_for:
            reasons.insert(0, f"{self._waits_for}; it was held for {time.monotonic() - self._waits_since:.0f} s")
        if not reasons:
            return False
        if (outside := self._arm.limits.outside(self._arm.observe().pose[:3])) > ARRIVED_M:
            reasons.append(
                f"the tool is {outside * 100:.1f} cm outside the work box; it returns at {CRAWL_M_S * 100:g} cm/s"
            )
        if not self._is_gripper_active:
            reasons.append("the gripper opens and closes once")
        self._hands.go_on("; ".join(reasons))
        if not self._is_gripper_active:
            self._gripper.activate()
            self._is_gripper_active = True
        self._arm.release()
        self._waits_for = ""
        return True

    def observe(self) -> Observation:
        """Returns one row: images, pose, velocity, wrench and opening of this moment.

        While a demonstrator is away, and has not judged, the arm stands and the moment is put off.
        """
        while self._is_running and self.is_away() and self._judge() is Outcome.RUNNING:
            self._with_consent(lambda: self._arm.rest(1 / CONTROL_HZ))
        return self._see()

    def _see(self) -> Observation:
        state = self._arm.observe()
        side, wrist = self._cameras.read()
        turn = turn_between(matrix_from_vector(state.pose[3:]), self.commanded_rotation)
        proprio = proprioception(
            position=state.pose[None, :3],
            rotation=state.pose[None, 3:],
            velocity=state.velocity,
            wrench=state.wrench,
            opening=self._gripper.opening(),
            under_way=np.concatenate([self.commanded - state.pose[:3], turn]),
        )
        return Observation(side=side[None], wrist=wrist[None], proprio=proprio)

    def step(self, action: F32) -> Step:
        """Moves for one control period with the action (1, 7). A NaN is an InputError and moves nothing."""
        if np.shape(action) != (1, ACTION_DIM) or not np.isfinite(action).all():
            raise InputError(f"action {np.asarray(action).tolist()}: needs 7 finite numbers for one slot")
        wanted = np.clip(action[0].astype(float), -1, 1)
        is_by_person, self.is_by_person = self.is_by_person, False
        self._gentle_steps = GENTLE_STEPS if is_by_person else max(0, self._gentle_steps - 1)
        try:
            wanted, moved = self._moved(wanted)
        except ArmStopped as stop:
            self._note(stop)
            self._is_running = False
            return _failed_step(wanted)
        self._steps += not is_by_person
        verdict = self._judge()
        self._solved_for = self._solved_for + 1 if verdict is Outcome.SUCCESS else 0
        success = np.array([self._solved_for >= self.task.success_steps])
        failure = np.array([verdict is Outcome.FAILURE])
        executed = (wanted if self._is_disturbed else moved)[None].astype(np.float32)
        is_late = self._steps >= self.task.max_steps
        self._is_running = not (is_late or success.any() or failure.any())
        return Step(
            executed=executed,
            reward=success.astype(np.float32),
            terminated=success | failure,
            truncated=is_late & ~success & ~failure,
            success=success.copy(),
        )

    def _judge(self) -> Outcome:
        """Returns what a person says or, where nobody says anything, what the cameras propose.

        While a proposal may be overruled the arm stands.
        """
        verdict, proposer = self._hands.judge(), self.proposer
        if verdict is not Outcome.RUNNING or proposer is None:
            return verdict
        if not proposer.is_accepted and proposer.proposes(self._see, opens=self._gripper.is_commanded_open):
            for _ in range(round(proposer.answer_s * CONTROL_HZ)):
                self._with_consent(lambda: self._arm.rest(1 / CONTROL_HZ))
                if (verdict := self._hands.judge()) is not Outcome.RUNNING:
                    break
            proposer.answered(is_overruled=verdict is Outcome.FAILURE)
            if proposer.is_accepted:
                self._solved_for = self.task.success_steps  # it was seen for so many steps, and may be the last one's
        return Outcome.SUCCESS if proposer.is_accepted else verdict

    def _moved(self, wanted: F64) -> tuple[F64, F64]:
        """Moves gripper and tool; returns the action (7,) wanted and the one that the limits left.

        Where a person had to be asked, the action is out of date: the arm stands still for this step.
        """
        while True:
            if self._ask():
                wanted = np.zeros(ACTION_DIM)
                wanted[GRIPPER_ACTION] = 1.0 if self._gripper.is_commanded_open else -1.0
            try:
                wanted[GRIPPER_ACTION] = self._move_gripper(wanted[GRIPPER_ACTION])
                return wanted, self._move_tool(wanted)
            except ArmHeld as hold:
                log.info("held in mid-episode: %s", hold)

    def _note(self, stop: ArmStopped) -> None:
        """Notes that a limit holds the arm: the episode has failed. Any other stop is raised on."""
        if self._arm.held != str(stop) or not self._arm.can_be_commanded():
            raise stop
        self.stops += 1
        log.warning("the arm stopped itself: %s", stop)

    @property
    def commanded(self) -> F64:
        """The TCP position (3,) that the actions so far ask for, those under way included."""
        return self._arm.anchor()[:3]

    @property
    def commanded_rotation(self) -> F64:
        """The rotation base_from_tcp (3, 3) that they ask for."""
        return matrix_from_vector(self._arm.anchor()[3:])

    @property
    def is_closing(self) -> bool:
        """True while the gripper is commanded to close."""
        return not self._gripper.is_commanded_open

    def _lifted(self) -> F64:
        """Returns the pose above the present one, pointing down, at the height for crossing the table."""
        pose, limits = self._arm.observe().pose, self._arm.limits
        height = max(limits.high[2] - LIFT_BELOW_TOP_M, pose[2])
        position = np.clip([pose[0], pose[1], height], limits.low, limits.high)
        return np.concatenate([position, _tool_down(0.0)])

    def _move_gripper(self, command: float) -> float:
        """Follows the gripper's action; returns the one that the gripper's limit on turning round left."""
        if command == 0 or (command > 0) == self._gripper.is_commanded_open:
            return command
        if self._arm.limits.check_measured(**vars(self._arm.observe())):
            return command  # the fingers stay, and the servo says why
        self._gripper.follow(is_open=command > 0)
        return command if (command > 0) == self._gripper.is_commanded_open else -command

    def _move_tool(self, wanted: F64) -> F64:
        """Servos one period; returns the action (7,) that the limits left."""
        metres, radians = self.task.action_scale
        begin = self._arm.anchor()
        goal = begin.copy()
        goal[:3] += self._disturbance.applied(wanted[None, :3])[0] * metres
        if radians > 0:
            turned = matrix_from_vector(wanted[3:6] * radians) @ matrix_from_vector(begin[3:])
            goal[3:] = tool_vector(vector_from_matrix(upright(turned, self.task.tilt_rad)))
        reached = self._arm.servo(goal, 1 / CONTROL_HZ, is_gentle=self._gentle_steps > 0)
        moved = np.zeros(ACTION_DIM)
        moved[:3] = (reached - begin)[:3] / metres
        if radians > 0:
            moved[3:6] = turn_between(matrix_from_vector(begin[3:]), matrix_from_vector(reached[3:])) / radians
        moved[GRIPPER_ACTION] = wanted[GRIPPER_ACTION]
        return np.clip(moved, -1, 1)


def _confirm_cameras(settings: RealSettings, lab: ConsoleLab) -> None:
    """Writes what each camera shows, and keeps it as its reference once a person says that it is right."""
    views, terminal, now = look(lab.side, lab.wrist, settings.schema), Terminal(), lab.references / "now"
    views.save(now)
    for name, camera in (("side", lab.side), ("wrist", lab.wrist)):
        terminal.say(f"{name} camera {camera.device} shows {now / name}.png")
    question = "Look at both images. Is each of its own camera, sharp, the right way up? Type yes or no, then Enter."
    if terminal.ask(question, "yes", "no") == "no":
        raise InputError("the cameras are not confirmed: mend the devices in the settings, start again without --arm")
    views.save(lab.references)


def _failed_step(wanted: F64) -> Step:
    """Returns the end of an episode in which the arm stopped itself; nothing moves."""
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    executed = wanted[None].astype(np.float32)
    return Step(executed=executed, reward=np.zeros(1, np.float32), terminated=yes, truncated=no, success=no.copy())


def _tool_down(yaw: float) -> F64:
    """Returns the rotation vector of a tool that points down, turned by `yaw`."""
    return tool_vector(vector_from_matrix(about_z(yaw) @ TOOL_DOWN))
