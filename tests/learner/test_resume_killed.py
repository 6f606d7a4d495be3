"""Learners killed with SIGKILL at several points end like one that was not killed.

The undisturbed one runs in this process.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resume_samples import (
    TIMEOUT_S,
    UPDATES,
    assert_goes_on,
    lines,
    never,
    rl_settings,
    write_demonstrations,
    write_experience,
)
from samples import SCHEMA, SMALL, make_policy

from learner.sft import TrainSettings
from learner.stage import EngineSettings, SftSettings, run_rl, run_sft
from policy.checkpoint import save_policy
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings

HERE = Path(__file__).parent


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def learner(*program: str, stage: str, settings: Path, out: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *program, stage, "--settings", str(settings), "--out", str(out), "--resume"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )


def run(stage: str, settings: Path, out: Path) -> None:
    done = learner("-m", "learner", stage=stage, settings=settings, out=out)
    assert done.returncode == 0, done.stderr


def killed(event: str, count: int, stage: str, settings: Path, out: Path) -> None:
    done = learner(str(HERE / "killed_learner.py"), event, str(count), stage=stage, settings=settings, out=out)
    assert done.returncode == -signal.SIGKILL, done.stderr


def begun(settings, out: Path) -> Path:
    """Waits until a stage has noted what had been received before it."""
    told = []
    run_rl(settings, out, resume=False, stop=lambda: bool(told), watch=told.append)
    return out


KILLS = {
    "torch": [("line", 4), ("manifest", 2)],
    "rllib": [("tensors", 2)],
}
"""Each begins with the checkpoint that the one before left; one is written every six updates."""


@pytest.mark.parametrize("engine", KILLS)
def test_rl_killed_anywhere_ends_as_if_it_had_not_been(server, tmp_path, engine):
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    replay = ReplaySettings(urls=(server.url,))
    settings = rl_settings(
        replay, tmp_path / "start", engine=EngineSettings(kind=engine), sampling={"twin": "priority"}
    )
    write_demonstrations(replay)
    begun(settings, tmp_path / "whole")
    out = Path(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    write_experience(replay, policy.sha256("backbone"))
    path = save_settings(settings, tmp_path / "rl.json")
    assert run_rl(settings, tmp_path / "whole", resume=True, stop=never)
    for event, count in KILLS[engine]:
        killed(event, count, "rl", path, out)
    server.stop()
    server.start()
    run("rl", path, out)
    assert_goes_on(tmp_path / "whole", out, 1)
    every = {line["updates"]: line for line in lines(tmp_path / "whole")}
    for line in lines(out):  # those of the killed processes too
        assert line == every[line["updates"]] or not line["updates"]
    assert len(every) == 1 + UPDATES


def test_sft_killed_anywhere_ends_as_if_it_had_not_been(server, tmp_path):
    replay = ReplaySettings(urls=(server.url,))
    write_demonstrations(replay)
    settings = SftSettings(
        replay=replay,
        schema=SCHEMA,
        policy=SMALL,
        train=TrainSettings(steps=20, batch_size=8),
        log_every=1,
        checkpoint_every=6,
    )
    path = save_settings(settings, tmp_path / "sft.json")
    assert run_sft(settings, tmp_path / "whole", resume=False, stop=never)
    killed("manifest", 2, "sft", path, tmp_path / "out")
    run("sft", path, tmp_path / "out")
    assert_goes_on(tmp_path / "whole", tmp_path / "out", 20 - 6)
    assert lines(tmp_path / "out")[:12] == lines(tmp_path / "whole")[:12]
