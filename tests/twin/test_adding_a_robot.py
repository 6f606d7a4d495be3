"""This module tests the page on robots: its files exist, its code runs, its settings load."""

import re
from pathlib import Path

import numpy as np

from twin.scene import Scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_robot.md"


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def test_every_file_that_it_names_exists():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert len(links) >= 8
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_its_example_runs():
    exec(compile(block("python"), PAGE.name, "exec"), {})


def test_its_settings_load(tmp_path, scene):
    scene.save(tmp_path)
    toml = tmp_path / "scene.toml"
    head, _, after = toml.read_text().partition("[tool]")
    head = "\n".join(line for line in head.splitlines() if not line.startswith("robot = "))
    robot, _, tool = block("toml").partition("\n\n")
    toml.write_text(f"{robot}\n{head}\n{tool}\n{after[after.index('[workspace]') :]}")
    loaded = Scene.load(tmp_path).robot
    assert (loaded.name, loaded.gripper.name) == ("fr3", "robotiq_2f85")
    np.testing.assert_allclose(loaded.flange_from_tcp[2, 3], 0.01 + loaded.gripper.tcp_m)
