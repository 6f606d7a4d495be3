"""Fidelity of real twins: identical worlds, a world whose differences are known, recorded episodes, a run."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from actors.sim.demonstrations import expert_episodes
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import GRIPPER_ACTION, TCP_POSITION, Schema, Source
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS, Domain
from twin.scene import synthetic_scene
from twinrl.commands import fidelity as command
from twinrl.fidelity.measure import images_of_recorded, motions_of_recorded, of_domains
from twinrl.fidelity.probes import World, before_grasp, pulses, recorded_situations, situations
from twinrl.report.page import write_report
from twinrl.run.settings import RunSettings

SMALL = Schema(side_px=32, wrist_px=32)
TASK = tasks.get("pick_and_place")
SCENE = synthetic_scene(0.03)


def world(domain):
    return World(scene=SCENE, task=TASK, domain=DOMAINS[domain], schema=SMALL)


def segments_of_the_standin(count):
    """Returns demonstrations in the domain that stands in for the arm, by episode."""
    with closing(VectorTwin(SCENE, TASK, n=count, domain=DOMAINS["standin"], seed=5, schema=SMALL)) as twin:
        episodes = expert_episodes(twin, {"A": count}, scene="s", seed=5)
    return [[replace(segment, source=Source.REAL) for segment in episode.segments()] for episode in episodes]


@pytest.fixture(scope="module")
def recorded():
    return segments_of_the_standin(6)


def test_a_world_is_perfectly_faithful_to_itself():
    images, response = of_domains(world("twin"), world("twin"))
    assert {(each.psnr_db, each.ssim) for each in images.values()} == {(np.inf, 1.0)}
    assert response.rms_mm == 0
    for axis in response.axes.values():
        assert axis.delay_ms == pytest.approx(0, abs=1e-6)
        assert axis.gain == pytest.approx(1)


def test_the_standin_differs_by_what_its_domain_says():
    """Gain 0.85; latency 1, 1, 2 against 0, 1 is 83 ms later, and its softer servos add to that; camera 5 mm off."""
    images, response = of_domains(world("twin"), world("standin"))
    for axis in response.axes.values():
        assert axis.gain == pytest.approx(0.85, abs=0.01)
        assert 60 < axis.delay_ms < 140
    assert 25 < images["side"].psnr_db < 40
    assert images["side"].ssim < images["wrist"].ssim < 1


def test_a_twin_as_late_as_the_other_world_is_measured_so():
    as_late = replace(world("twin"), domain=replace(DOMAINS["twin"], latency_steps=DOMAINS["standin"].latency_steps))
    gaps = [
        np.mean([axis.delay_ms for axis in of_domains(twin, world("standin"))[1].axes.values()])
        for twin in (world("twin"), as_late)
    ]
    assert gaps[0] - gaps[1] == pytest.approx(83, abs=25)


def test_a_twin_that_varies_is_measured_in_its_middle():
    domain = Domain(exposure_stops=(-1.0, 1.0), sensor_noise=(0.05, 0.1), camera_jitter_m=0.02, gain=(0.5, 1.5))
    images, response = of_domains(world("twin"), replace(world("twin"), domain=domain))
    assert {each.psnr_db for each in images.values()} == {np.inf}
    assert response.axes["x"].gain == pytest.approx(1, abs=1e-6)


def test_situations_show_the_whole_workspace_and_pulses_stay_in_it():
    starts, box = situations(TASK), TASK.work_box
    places = np.array([start.poses["tool"][:3] for start in starts])
    assert np.ptp(places[:, 1]) > 0.3
    assert {start.region for start in starts} == {"A", "B"}
    starts, actions = pulses(TASK)
    for path in world("twin").paths(starts, actions):
        assert (path[:, 0] > box.x[0]).all() and (path[:, 2] > box.z[0]).all()
        assert np.ptp(path, axis=0).max() == pytest.approx(0.05, abs=0.01)


def test_recorded_episodes_are_set_up_again_up_to_their_grasp(recorded):
    episodes = [Episode.of(segments) for segments in recorded]
    starts, seen = recorded_situations(episodes)
    twin = world("standin").images(starts)  # their own world
    assert len(twin) == len(seen) == len(starts)
    np.testing.assert_allclose(twin.proprio[:, TCP_POSITION], seen.proprio[:, TCP_POSITION], atol=3e-3)
    assert np.abs(twin.side.astype(int) - seen.side).mean() < 1.0
    for episode in episodes:
        assert (episode.action[: before_grasp(episode), GRIPPER_ACTION] > 0).all()


def test_recorded_episodes_tell_the_same_as_the_domains(recorded):
    episodes = [Episode.of(segments) for segments in recorded]
    images, response = images_of_recorded(world("twin"), episodes), motions_of_recorded(world("twin"), episodes)
    assert response.axes["y"].gain == pytest.approx(0.85, abs=0.06)
    assert 30 < response.axes["y"].delay_ms < 200
    assert 25 < images["side"].psnr_db < 40


def test_a_finished_run_is_measured_and_its_report_shows_it(recorded, tmp_path, capsys):
    folder = tmp_path / "small"
    SCENE.save(folder / "scene")
    save_settings(RunSettings(name="small", runs=tmp_path, schema=SMALL), folder / "settings.json")
    with EmbeddedServer(folder / "replay") as server:
        settings = ReplaySettings(urls=(server.url,), prefix="twinrl-small")
        with ReplayWriter(settings, SMALL, actor="arm", spool=None) as writer:
            for segments in recorded:
                for segment in segments:
                    writer.add(segment, ("demo", "real"))
            assert writer.flush(20) == 0
    (folder / "eval").mkdir()
    for name, shift in (("twin_rl_twin", 0), ("before_standin", 1)):
        lines = []
        for cell in range(10):
            for rollout in range(5):
                line = {"region": "A", "cell": cell, "x": 0, "y": 0, "success": rollout < cell / 2 - shift}
                lines.append(json.dumps(line | {"steps": 9, "human_steps": 0, "interventions": 0, "version": 1}))
        (folder / "eval" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    assert command.main([str(folder)]) == 0
    table = capsys.readouterr().out
    assert "success by cell, Spearman" in table and "10 cells, 50 and 50 rollouts" in table
    assert command.main([str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder / "fidelity.json").read_text())
    assert told["success"]["spearman"] > 0.9
    assert set(told["images"]) == {"side", "wrist"}
    assert told["response"]["sequences"] == 6
    page = write_report(folder).read_text()
    assert "Fidelity of the twin" in page and "Success by cell, Spearman" in page


def test_domains_are_compared_without_a_run(tmp_path, capsys):
    SCENE.save(tmp_path)
    small = ("--schema.side-px", "32", "--schema.wrist-px", "32")
    assert command.main(["--domains", "twin", "twin", "--scene", str(tmp_path), "--json", *small]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"]["side"]["psnr_db"] is None  # infinite
    assert told["success"] is None and told["response"]["rms_mm"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a run"),
        (("nowhere",), "no run was made there"),
        (("--domains", "twin", "standin"), "--scene"),
        (("--domains", "twin", "mars", "--scene", "."), "mars"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    SCENE.save(tmp_path)
    with pytest.raises(InputError, match=message):
        command.main(list(arguments))
