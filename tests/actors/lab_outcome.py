"""A slow test of a lab: `twinrl run` at a terminal, from photos to the report, as a person with a real arm uses it.

    make outcome        runs it too; minutes on two cores, no part of `make test`

The arm is the simulated controller, which the run meets at an address as any other. What stands around it is a lab's:
two cameras that OpenCV reads, objects that a person places, a terminal at which the person says go and judges, and its
keyboard in the person's hand. The person is a program at the other end of the terminal that sees where things are.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from camera_server import cameras, scene
from console_session import OWN_TERMINAL, STILL_M
from keyboard import Keyboard
from standin import standin_process

from actors.human.devices.keyboard import MOVES
from actors.lab import LabClient
from protos.files import read_lines
from protos.schema import Configuration
from twin.tasks.pick_and_place import CUBE, CUBE_HALF_M, GRASP_HEIGHT_M, TARGET, TARGET_HALF_M
from twinrl.commands.lab.asking import Init, make_lab

pytestmark = pytest.mark.timeout(3600)
CAPTURE = Path(__file__).resolve().parents[2] / "examples" / "capture"
GO, CONFIRM = "then type go and Enter: the arm moves.", "Type yes or no, then Enter."
PLACE = re.compile(r"  (\w+): x = (-?[\d.]+) cm, y = (-?[\d.]+) cm, turned (-?\d+) degrees")
SMALL = """
[demonstrations]
real_a = 2
twin_a = 2
twin_b = 2
[sft]
steps = 60
batch = 8
[twin_rl]
env_steps = 900
twins_per_actor = 4
[real_rl]
env_steps = 150
[evaluation]
rollouts = 1
[scan.train]
steps = 20
"""
DEMONSTRATES, POLICY, ALONE = "waits for its PERSON", "POLICY acts", "the task is solved. f and"
"""Words on the screen that tell who has the arm: the person, a policy that may be helped, one that is tried."""
NEAR_M, BESIDE_M, FAR_M, LIFTED_M = 0.008, 0.02, 0.04, 0.1
STUCK_S, GIVES_UP_S = 2.0, 90.0
"""A policy that practises for so long is helped, an attempt of so long has failed."""


class Eyes(threading.Thread):
    """Keeps two cameras showing what the simulated controller's world looks like now."""

    def __init__(self, host, fakes):
        super().__init__(daemon=True)
        self._lab, self._fakes, self.is_over = LabClient(host), fakes, threading.Event()
        self.look()
        self.start()

    def look(self):
        for fake, image in zip(self._fakes, self._lab.images()[:2], strict=True):
            fake.shown = np.kron(image[..., ::-1], np.ones((2, 2, 1), np.uint8))

    def run(self):
        while not self.is_over.wait(0.07):
            self.look()


class SyntheticPerson(threading.Thread):
    """Reads the terminal, answers it, and moves the arm by keys; sees the true places of tool and objects."""

    def __init__(self, keyboard, host):
        super().__init__(daemon=True)
        self._keyboard, self._lab, self._read = keyboard, LabClient(host), 0
        self._state, self._since = "", 0.0
        self._is_closed, self._placed_at = False, 0.0
        self.gos = 0
        """Number of motions that were consented to."""
        self.is_over = threading.Event()
        self.start()

    def run(self):
        while not self.is_over.wait(0.03):
            self._answer(self._keyboard.screen)
            is_stuck = self._state == POLICY and time.monotonic() > self._since + STUCK_S
            if self._state and not self._is_closed and self._lab.success():
                self._judge("s")
            elif self._state and time.monotonic() > self._placed_at + GIVES_UP_S:
                self._judge("f")
            elif self._state == DEMONSTRATES or is_stuck:
                self._act()

    def _answer(self, screen):
        shown = screen[self._read :]
        if GO in shown:
            told = PLACE.findall(shown[: shown.index(GO)])
            self._read += shown.index(GO) + len(GO)
            self._state = ""
            if told:
                self._place(told)
            time.sleep(0.5)
            self._keyboard.type("go\n")
            self.gos += 1
        elif CONFIRM in shown:
            self._read += shown.index(CONFIRM) + len(CONFIRM)
            time.sleep(0.5)
            self._keyboard.type("yes\n")
        else:
            state = max((DEMONSTRATES, POLICY, ALONE), key=shown.rfind)
            if state in shown:
                self._read += shown.rfind(state) + len(state)
                self._state, self._since = state, time.monotonic()

    def _place(self, told):
        heights = {CUBE: CUBE_HALF_M, TARGET: TARGET_HALF_M}
        poses = {
            name: (float(x) / 100, float(y) / 100, heights[name], np.radians(float(yaw))) for name, x, y, yaw in told
        }
        self._lab.place(Configuration(region="A", poses=poses))
        self._is_closed, self._placed_at = False, time.monotonic()

    def _judge(self, word):
        self._state = ""
        self._keyboard.type(f"{word}\n")

    def _act(self):
        """Types the keys that bring the cube to the disc from here."""
        objects = self._lab.objects()
        off = np.array(objects[TARGET if self._is_closed else CUBE][:3]) - self._lab.tool()[:3]
        off[2] += GRASP_HEIGHT_M + 0.01 - objects[TARGET][2] if self._is_closed else GRASP_HEIGHT_M - CUBE_HALF_M
        away = np.hypot(off[0], off[1])
        if away > NEAR_M:  # sideways in the air, unless it is nearly there
            low = LIFTED_M - self._lab.tool()[2]
            off[2] = low if away > BESIDE_M else 0.0
            if away > BESIDE_M and low > 0.03:
                off[:2] = 0.0
        elif abs(off[2]) < NEAR_M:
            self._is_closed = not self._is_closed
            self._keyboard.type("g")
            self._stand(1.0)
            return
        self._press(off)

    def _press(self, off):
        """Types the keys towards `off` (3,) [m], base frame; the person looks along +x."""
        wish = np.array([-off[1], off[0], off[2]])
        keys = [key for key, (axis, way) in MOVES.items() if axis < 3 and way * wish[axis] > NEAR_M / 2]
        self._keyboard.type((b"".join(keys) or b" ").decode())
        if np.abs(off).max() < FAR_M:  # a key is all or nothing: near the goal it is tapped
            self._stand(0.3)

    def _stand(self, seconds):
        """Keeps the deadman held without a motion."""
        for _ in range(round(seconds / 0.05)):
            time.sleep(0.05)
            self._keyboard.type(" ")


class Terminal:
    """`twinrl` at a terminal of its own, with a person at it."""

    def __init__(self, folder, host, *words):
        self.keyboard = Keyboard()
        command = [sys.executable, "-c", OWN_TERMINAL, sys.executable, "-m", "twinrl.cli", *words]
        slave = self.keyboard.slave
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, start_new_session=True
        )
        self.person = SyntheticPerson(self.keyboard, host)

    def end(self, until=lambda: False):
        """Waits for the end, which Ctrl-C brings once `until()` is true; returns exit code and screen."""
        while self._process.poll() is None and not until():
            time.sleep(0.05)
        if self._process.poll() is None:
            self.keyboard.type("\x03")
        code = self._process.wait(60)
        self.person.is_over.set()
        self.person.join(10)
        time.sleep(0.2)
        screen = self.keyboard.screen
        self.keyboard.close()
        return code, screen


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Provides a lab's folder with its file, and the address of its arm."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "arm").mkdir()
    shutil.copytree(CAPTURE, folder / "photos")
    with standin_process(folder / "arm") as arm, cameras(scene(1), scene(2)) as fakes:
        eyes = Eyes(arm.host, fakes)
        file = folder / "lab.toml"
        side, wrist = (fake.url for fake in fakes)
        make_lab(
            Init(out=file, host=arm.host, task="pick_and_place", photos=folder / "photos", device="keyboard",
                 side=side, wrist=wrist)
        )  # fmt: skip
        written = file.read_text()
        plan = written.index("[demonstrations]")
        small = written[:plan].replace("stream_hz = 125.0", "stream_hz = 10.0\nhold_after_s = 1.0")
        small = small.replace("scale = 0.5", "scale = 0.3")
        for fake in fakes:
            small = small.replace(f'device = "{fake.url}"', f'device = "{fake.url}"\nmax_age_s = 5.0')
        file.write_text(small + SMALL)
        yield folder, arm.host
        eyes.is_over.set()
        eyes.join(10)


def test_a_lab_goes_from_photos_to_the_report(lab):
    folder, host = lab
    code, screen = Terminal(folder, host, "run", "lab.toml").end()
    assert code == 2 and 'start with "--arm"' in screen, screen
    assert (folder / "cameras" / "side.png").exists() and (folder / "cameras" / "wrist.png").exists()

    run, again = folder / "runs" / "lab", ("run", "lab.toml", "--resume", "--arm")
    code, screen = Terminal(folder, host, *again).end(lambda: len(read_lines(run / "demonstrations.jsonl")) == 1)
    assert code == 130 and "Go on with: twinrl run lab.toml --resume --arm" in screen, screen
    place = LabClient(host).tool()[:3]
    time.sleep(1.0)
    assert np.linalg.norm(np.subtract(LabClient(host).tool()[:3], place)) < STILL_M

    terminal = Terminal(folder, host, *again)
    code, screen = terminal.end()
    assert code == 0, screen
    assert terminal.person.gos > 6
    assert len(read_lines(run / "stages.jsonl")) == 10
    assert screen.count("YOU ARE NEEDED") == 4
    shown = read_lines(run / "demonstrations.jsonl")
    assert sum(line["success"] for line in shown) == 2 and {line["operator"] for line in shown} == {"person"}
    practice = screen[screen.index("[8/10] real RL started") : screen.index("[9/10] arm after started")]
    assert POLICY in practice and "PERSON acts" in practice
    assert read_lines(run / "real_rl" / "metrics.jsonl")[-1]["step"] >= 150
    assert json.loads((run / "station.json").read_text())["operator"] == "person"
    page = (run / "report.html").read_text()
    assert "stand-in" not in page and (run / "images" / "arm_side.png").exists()
