"""A lab file: read, refused, made by `twinrl lab init`; what a run with it asks of a person."""

import io
import shutil
from pathlib import Path

import pytest

from actors.real import ConsoleLab, SimulatedLab, Station
from protos.errors import InputError, Unreachable
from protos.settings import anchored, save_settings
from twinrl.commands.lab import command
from twinrl.commands.lab.asking import Init, make_lab
from twinrl.commands.lab.lab_file import parse_lab, read_lab
from twinrl.run.run import Life, run
from twinrl.run.settings import RunSettings, SftPlan
from twinrl.run.stages import STAGES

NOBODY = "127.0.13.7"
"""A loopback address where no controller listens."""
CAMERAS = '[station.lab.side]\ndevice = "0"\n[station.lab.wrist]\ndevice = "2"\n'
SIMULATED = '[station.lab]\nkind = "simulated"\n'


def station(text=CAMERAS, *, operator="person", host=NOBODY):
    return f'capture = "photos"\n[station]\noperator = "{operator}"\n[station.arm]\nhost = "{host}"\n{text}'


def parse(text, path=Path("/lab/table.toml")):
    return parse_lab(text, path)


def test_a_file_without_a_station_is_the_demo():
    lab = parse('name = "demo"\nruns = "/runs"\n')
    assert lab.station is None and lab.run == RunSettings(runs=Path("/runs"))


def test_a_lab_has_its_arm_and_its_own_name_and_paths():
    lab = parse(station() + '[station.person]\ndevice = "gamepad"\nscale = 0.2\n[demonstrations]\nreal_a = 12\n')
    assert lab.run.name == "table" and lab.run.demonstrations.real_a == 12
    assert lab.run.capture == Path("/lab/photos") and lab.run.folder == Path("/lab/runs/table")
    assert isinstance(lab.station.lab, ConsoleLab) and lab.station.lab.references == Path("/lab/cameras")
    assert lab.station.arm.host == NOBODY and lab.station.person.device == "gamepad"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task = ", "table.toml: no TOML"),
        ('task = "juggle"', "table.toml: task 'juggle'"),
        ("[sft]\nstep = 3", "table.toml.sft.step: no such setting; nearest is 'steps'"),
        ('[sft]\nsteps = "3"', "table.toml.sft.steps='3': expected int"),
        ('replay = ["redis://u:secret@h:1"]', "table.toml: replay: a URL with a password"),
        (station() + "[station.limits]\nforce_n = 900.0", "force_n=900.0: must be 1 to 150"),
        (station() + '[station.arms]\nhost = "h"', "table.toml.station.arms: no such setting; nearest is 'arm'"),
        (station() + '[station.person]\ndevice = "mouse"', "device='mouse': choose one of 'spacemouse'"),
        (station().replace("host = ", "model = ").replace(NOBODY, "ur5e"), "station.arm.host is missing"),
        (station(""), "station.lab is missing: name the cameras in [station.lab.side]"),
        (station().replace('capture = "photos"\n', ""), "capture is missing"),
        (station(operator="scripted"), "station.operator='scripted': choose 'person'"),
        (station(SIMULATED, operator="none"), "station.operator='none': choose 'person' or 'scripted'"),
        ("arms = 2\n" + station(), "arms=2: only stand-ins"),
        (station(CAMERAS.replace("2", "0")), "'0' and '0' are one camera"),
    ],
)
def test_a_mistake_is_named_in_one_line(text, told):
    with pytest.raises(InputError) as refused:
        parse(text)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_a_lab_is_made_by_flags_alone(tmp_path, capsys):
    given = Init(
        out=tmp_path / "lab.toml",
        host=NOBODY,
        model="ur3e",
        task="erase_whiteboard",
        photos=tmp_path / "table",
        device="spacemouse",
        side="/dev/v4l/by-id/one",
        wrist="rtsp://camera/2",
    )
    make_lab(given)
    lab = read_lab(tmp_path / "lab.toml")
    assert lab.run == RunSettings(
        name="lab", runs=tmp_path / "runs", task="erase_whiteboard", capture=tmp_path / "table"
    )
    assert lab.station.arm.model == "ur3e" and lab.station.person.device == "spacemouse"
    assert (lab.station.lab.side.device, lab.station.lab.wrist.device) == ("/dev/v4l/by-id/one", "rtsp://camera/2")
    assert 'capture = "table"' in (tmp_path / "lab.toml").read_text(), "it may move with its photos"
    assert "twinrl run" in capsys.readouterr().out
    with pytest.raises(InputError, match="is there already"):
        make_lab(given)


def test_a_simulated_controller_needs_no_cameras(tmp_path):
    words = [str(tmp_path / "lab.toml"), "--host", NOBODY, "--model", "ur5e", "--task", "pick_and_place"]
    words += ["--photos", "photos", "--device", "keyboard", "--simulated"]
    assert command.lab(["init", *words]) == 0
    lab = read_lab(tmp_path / "lab.toml")
    assert isinstance(lab.station.lab, SimulatedLab) and lab.station.arm.stream_hz == 10


def test_what_is_missing_is_asked_until_it_can_be_used(tmp_path, monkeypatch, capsys):
    typed = io.StringIO("\n".join(["", NOBODY, "ur99", "ur10e", "", "here", "keyboard", "5", "7"]) + "\n")
    typed.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", typed)
    make_lab(Init(out=tmp_path / "lab.toml"))
    lab = read_lab(tmp_path / "lab.toml")
    assert (lab.station.arm.host, lab.station.arm.model, lab.run.task) == (NOBODY, "ur10e", "pick_and_place")
    assert (lab.station.lab.side.device, lab.station.lab.wrist.device) == ("5", "7")
    assert capsys.readouterr().out.count("Model of the arm") == 2


def test_without_a_terminal_a_missing_answer_is_a_flag(tmp_path):
    with pytest.raises(InputError, match="--host: missing, and there is no terminal"):
        make_lab(Init(out=tmp_path / "lab.toml"))
    assert not (tmp_path / "lab.toml").exists()


def test_an_arm_that_does_not_answer_is_told_before_anything_is_made(tmp_path):
    (tmp_path / "lab.toml").write_text(station(SIMULATED))
    with pytest.raises(Unreachable, match=f"UR controller at {NOBODY}: dashboard port 29999"):
        command.run([str(tmp_path / "lab.toml"), "--arm"])
    assert [path.name for path in tmp_path.iterdir()] == ["lab.toml"]


def begun(folder, *, at=None, **plan):
    """The folder of a run that began with stand-ins, or at a station."""
    settings = RunSettings(runs=folder, name="mine", **plan)
    save_settings(anchored(settings), settings.folder / "settings.json")
    if at is not None:
        save_settings(at, settings.folder / "station.json")
    return settings


@pytest.mark.parametrize(("before", "now"), [(None, Station()), (Station(), None)])
def test_a_run_goes_on_with_the_kind_of_arm_that_it_began_with(tmp_path, before, now):
    settings = begun(tmp_path, at=before)
    with pytest.raises(InputError, match="go on with the same command"):
        run(settings, Life(resume=True, station=now))


def test_a_plan_that_changed_since_the_run_began_is_refused(tmp_path):
    settings = begun(tmp_path, at=Station())
    changed = RunSettings(runs=tmp_path, name="mine", seed=settings.seed, sft=SftPlan(steps=7))
    with pytest.raises(InputError, match="sft: changed since the run began"):
        run(changed, Life(resume=True, station=Station()))
    shutil.rmtree(settings.folder)


def asked(text):
    lab = parse(text)
    stages = {stage.name: stage.asks(lab.run, lab.station) for stage in STAGES if stage.asks is not None}
    assert list(stages) == ["demonstrations", "arm before", "real RL", "arm after"]
    return stages


def test_what_a_person_at_a_table_is_needed_for():
    told = asked(station() + '[station.person]\ndevice = "gamepad"\n')
    assert told["demonstrations"].startswith("show the task 30 times in region A with the gamepad; place the objects")
    assert told["arm before"].startswith("the policy tries 80 starts; place the objects")
    assert "take over with the gamepad" in told["real RL"]


def test_a_simulated_controller_places_and_judges():
    told = asked(station(SIMULATED))
    assert told["demonstrations"].endswith("with the spacemouse") and not told["arm before"]
    assert told["real RL"].endswith("when it is in trouble")
    assert not any(asked(station(SIMULATED, operator="scripted")).values())


def test_a_policy_that_practises_alone_needs_hands_only():
    told = asked(station() + '[real_rl]\noperator = "none"\n')
    assert told["real RL"] == "the policy practises 4000 steps; place the objects and judge when you are asked"
