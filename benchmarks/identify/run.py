"""Is the twin of a drawn lab found from thirty demonstrations of its arm, and does a policy arrive better?

    twinrl bench identify --labs 0 1 2              found beside true, a minute per lab
    twinrl bench identify --effect --labs 0 1 2 3 4   success on arrival with and without; hours

With `--effect` finished units are kept in `--folder` and results in `--results`; the same command goes on.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.guides import ListGuide
from actors.human import TakeoverSettings
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sinks import EpisodeFilter, succeeded
from benchmarks.identify.effect import effect
from benchmarks.measure import hardware, table
from benchmarks.method.run import MethodBench
from benchmarks.operator.inside import InsideRobot
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64, Schema, Source
from twin import labs, tasks
from twin.camera import Camera, invert
from twin.identify import Identified, identify
from twin.identify.views import base_of
from twin.labs import Lab
from twin.randomize import DOMAINS
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task

CHECKOUT = Path(__file__).resolve().parents[2]
PX = 64
DISTURBANCE = 0.3
"""Noise on the demonstrator's motion, as in a run."""
COLUMNS = (
    *("lab", "latency, true", "found [steps]", "response, true", "found", "stiffness, true", "found"),
    *("mass, true", "found [kg]", "camera off by, assumed", "found [mm]"),
    *("image off by, assumed", "found [mm]", "CPU [s]"),
)


@dataclass(frozen=True, kw_only=True)
class IdentifyBench:
    """Identify the twins of drawn labs from their arms' demonstrations."""

    task: str = "pick_and_place"
    labs: tuple[int, ...] = (0, 1, 2)
    """Seeds of labs; those from 1000 on are for tuning and judge nothing."""
    episodes: int = 30
    """Demonstrations in region A."""
    scene: Path | None = None
    """Scene folder; a synthetic one by default."""
    effect: bool = False
    """Try policies instead that learned in twins with and without identification, on the labs' arms."""
    rollouts: int = 20
    """Rollouts per region and policy, with `--effect`."""
    folder: Path = Path("runs/bench-identify")
    """Run folders of the units, with `--effect`."""
    results: Path = CHECKOUT / "benchmarks" / "results" / "identify"
    """One small file per policy that was tried, with `--effect`."""
    measure: bool = True
    """`--no-measure` only writes the table of what is there, with `--effect`."""
    quick: bool = False
    """Shows that it runs, in minutes, with `--effect`. Give it its own folders."""

    def __post_init__(self) -> None:
        for name in ("episodes", "rollouts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        if not self.labs or len(set(self.labs)) < len(self.labs):
            raise InputError(f"labs={self.labs}: one or more different ones")
        tasks.get(self.task)

    @property
    def method(self) -> MethodBench:
        """The plan of its runs, which are those of the method."""
        return MethodBench(
            task=self.task,
            labs=self.labs,
            folder=self.folder,
            results=self.results,
            rollouts=self.rollouts,
            quick=self.quick,
        )


def run(settings: IdentifyBench) -> str:
    """Returns markdown."""
    if settings.effect:
        return f"{effect(settings.method, measure=settings.measure)}\n\n{hardware()}"
    scene = synthetic_scene() if settings.scene is None else Scene.load(settings.scene)
    rows = [_row(scene, tasks.get(settings.task), lab, settings.episodes) for lab in settings.labs]
    return f"{table(COLUMNS, rows)}\n\n{hardware()}"


def demonstrated(scene: Scene, task: Task, lab: Lab, count: int, *, seed: int = 77) -> list[Episode]:
    """Returns the operator's successful demonstrations in region A of a lab, of `count` starts."""
    schema = Schema(side_px=PX, wrist_px=16)
    robot = InsideRobot(scene, task, lab, schema, seed=seed, disturbance=DISTURBANCE)
    starts = task.space.spread(np.random.default_rng(seed), region="A", rollouts=count)
    episodes: list[Episode] = []
    sink = EpisodeFilter(lambda segments: episodes.append(Episode.of(segments)), succeeded)
    tags = EpisodeTags(
        actor="operator",
        incarnation="bench",
        task=task.name,
        scene=scene.name,
        instruction=task.instruction,
        source=Source.REAL,
    )
    operator = robot.operator(TakeoverSettings(always=True))
    loop = EpisodeLoop(robot.environment, NoPolicy(), ListGuide(starts), EpisodeRecorder(tags), sink, operator)
    loop.run(lambda: False)
    return episodes


def off_mm(scene: Scene, lab: Lab, found: Identified | None) -> tuple[float, float]:
    """Returns how far a twin's side camera is off its place in the arm's base frame, and its image of the workspace.

    Without `found` they are those of the twin as it was scanned.
    """
    arm_from_scene = invert(base_of(lab.calibration))
    real = lab.calibration.side(scene.side).camera(PX)
    real = Camera(**vars(real) | {"base_from_camera": arm_from_scene @ real.base_from_camera})
    twin = (scene if found is None else found.scene(scene)).side.camera(PX)
    space = [np.linspace(low, high, 5) for low, high in ((-0.65, -0.35), (-0.2, 0.2), (0.0, 0.2))]
    points: F64 = np.stack(np.meshgrid(*space), -1).reshape(-1, 3)
    seen, drawn = real.project(points), twin.project(points)
    apart = (drawn - seen)[:, :2] * seen[:, 2:] / real.fx
    centre = np.linalg.norm(real.base_from_camera[:3, 3] - twin.base_from_camera[:3, 3])
    return 1000 * float(centre), 1000 * float(np.sqrt((apart**2).sum(1).mean()))


def _row(scene: Scene, task: Task, seed: int, count: int) -> list[str]:
    lab = labs.draw_lab(seed, task)
    episodes = demonstrated(scene, task, lab, count)
    began = time.process_time()
    found = identify(scene, task, DOMAINS["varied"], episodes)
    cpu_s = time.process_time() - began
    values = {each.name: each.found for each in found.quantities}
    true = lab.domain.middle
    pairs = (
        ("latency", lab.drive.servo_delay_s * CONTROL_HZ, ".2f"),
        ("response", true.gain, ".3f"),
        ("servo stiffness", true.servo_stiffness, ".2f"),
        ("object mass", true.object_mass_kg, ".3f"),
    )
    cells = [str(seed)]
    for name, real, form in pairs:
        value = values[name]
        cells += [format(real, form), "–" if value is None else format(value, form)]
    before, after = off_mm(scene, lab, None), off_mm(scene, lab, found)
    for assumed, identified in zip(before, after, strict=True):
        cells += [f"{assumed:.1f}", f"{identified:.1f}"]
    return [*cells, f"{cpu_s:.0f}"]
