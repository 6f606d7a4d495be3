"""The preflight: real probes in real children, and libraries that are missing, broken or deadly."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.net import free_port
from services.replay import EmbeddedServer, ReplaySettings, ServerConfig
from twinrl.commands import doctor
from twinrl.doctor import ROLES, Finding, Result, machine
from twinrl.doctor import machine as neighbours
from twinrl.doctor.checks import MACHINE_CHECKS, PROBE_CHECKS, chosen, run_probe, run_probes
from twinrl.doctor.probes import PROBES

ROOT = Path(__file__).resolve().parents[2]


def pretend(monkeypatch, folder: Path, module: str, body: str) -> None:
    """Children find this module before the installed one."""
    (folder / f"{module}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


def pretend_python(monkeypatch, folder: Path, script: str) -> None:
    """Children are this shell script instead."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.fixture(autouse=True)
def _children_find_the_project(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_the_renderer_is_compiled_and_held_against_the_reference():
    findings = dict(run_probes(["numba", "mujoco"]))
    assert list(findings) == ["numba", "mujoco"]
    assert all(finding.ok for finding in findings.values()), findings
    assert "torch reference" in findings["numba"].found
    assert findings["mujoco"].found.startswith("4.")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path, "pycolmap", "raise ModuleNotFoundError('gone', name='pycolmap')")
    finding = run_probe("pycolmap", 60)
    assert finding == Finding(
        ok=False, found="the package pycolmap is not installed", advice="pip install 'twinrl[scan]'"
    )


def test_a_broken_package_is_told_from_a_missing_one(monkeypatch, tmp_path):
    pretend(monkeypatch, tmp_path, "pycolmap", "raise OSError('libcudart.so.12: cannot open\\nshared object file')")
    finding = run_probe("pycolmap", 60)
    assert not finding.ok and "OSError: libcudart.so.12: cannot open shared object file" in finding.found
    assert "reinstall" in finding.advice


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("kill -ILL $$", "killed by SIGILL"),
        ("sleep 30", "no answer within 0.3 s"),
        ("echo 'no such thing' >&2; exit 3", "ended with code 3: no such thing"),
        ("echo '[1, 2]'", "ended with code 0"),
    ],
)
def test_what_a_child_does_costs_one_line(monkeypatch, tmp_path, script, says):
    pretend_python(monkeypatch, tmp_path, f"exec {script}" if script.startswith("sleep") else script)
    finding = run_probe("numba", 0.3 if script.startswith("sleep") else 30)
    assert not finding.ok and says in finding.found and "\n" not in finding.found and finding.advice


def test_what_a_library_prints_does_not_hide_its_finding(monkeypatch, tmp_path):
    pretend_python(monkeypatch, tmp_path, """echo 'Welcome!'; echo '{"ok": true, "found": "1.0", "advice": ""}'""")
    assert run_probe("ray", 30) == Finding(ok=True, found="1.0")


@pytest.mark.parametrize("role", ROLES)
def test_every_role_asks_for_probes_that_exist(role):
    probes = [name for name, _ in chosen(PROBE_CHECKS, role)]
    assert set(probes) <= set(PROBES)
    assert {"memory", "disk"} <= {name for name, _ in chosen(MACHINE_CHECKS, role)}


def test_the_robots_computer_needs_neither_ray_nor_a_twin():
    needed = {name for name, roles in PROBE_CHECKS.items() if "robot" in roles[0].split()}
    assert needed == {"torch", "ur_rtde"}
    assert not {"ray", "mujoco", "numba"} & {name for name, _ in chosen(PROBE_CHECKS, "robot")}


def test_the_doctor_itself_loads_nothing_that_it_examines():
    code = "import sys, twinrl.commands.doctor, twinrl.doctor.machine as m; m.clock(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not {"mujoco", "numba", "torch", "ray", "gsplat", "pycolmap", "rtde_control"} & set(done.stdout.split())


def test_ports_that_are_taken_are_seen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not machine.is_free("127.0.0.1", server.getsockname()[1])
    assert machine.is_free("127.0.0.1", free_port())


def test_a_stand_in_that_runs_takes_its_address(monkeypatch):
    monkeypatch.setattr(machine, "ROBOT_HOSTS", ["127.0.0.231", "127.0.0.232"])
    if not all(machine.is_free(host, 30004) for host in machine.ROBOT_HOSTS):
        pytest.skip("port 30004 is taken on 127.0.0.231 or 127.0.0.232")
    with socket.create_server(("127.0.0.231", 30004)):
        assert "127.0.0.232" in machine.robot_ports().found
        with socket.create_server(("127.0.0.232", 30004)):
            assert not machine.robot_ports().ok


def test_an_arm_is_asked_at_its_ports():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.robot("127.0.0.1", 1.0, [port]).ok
    finding = machine.robot("127.0.0.1", 1.0, [port])
    assert not finding.ok and str(port) in finding.found and "controller" in finding.advice


def test_limits_of_the_machine(monkeypatch, tmp_path):
    assert machine.disk(tmp_path / "not" / "there" / "yet").found.endswith(f"free in {tmp_path}")
    for name, check in (("DISK_GIB", lambda: machine.disk(tmp_path)), ("MEMORY_GIB", machine.memory)):
        monkeypatch.setattr(machine, name, 1e6)
        finding = check()
        assert not finding.ok and "1e+06 GiB needed" in finding.advice
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert "before this program" in machine.clock().found


def test_a_replay_is_asked_for_its_clock_and_keeps_its_password(tmp_path):
    with EmbeddedServer(tmp_path / "replay", ServerConfig(listen="127.0.0.1:0")) as server:
        finding = neighbours.replay(ReplaySettings(urls=(server.tcp_url,)), 5.0)
        assert finding.ok and "clock +0.0" in finding.found.replace("-", "+")
        address = server.tcp_url.removeprefix("redis://")
        refused = neighbours.replay(ReplaySettings(urls=(f"redis://robot:hunter2@{address}",)), 5.0)
        assert not refused.ok and "hunter2" not in refused.found
    gone = neighbours.replay(ReplaySettings(urls=(f"redis://:hunter2@127.0.0.1:{free_port()}",)), 0.5)
    assert not gone.ok and "hunter2" not in gone.found + gone.advice


def test_the_command_of_a_service_machine(capsys):
    assert doctor.main(["--role", "services"]) == 0
    said = capsys.readouterr().out
    assert "valkey" in said and said.splitlines()[-1] == "This machine is fit for its part (services)."


def test_the_command_ends_with_1_when_something_needed_is_missing(capsys):
    gone = f"redis://127.0.0.1:{free_port()}"
    assert doctor.main(["--role", "services", "--replay", gone, "--timeout-s", "0.5", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["role"] == "services"
    by_name = {check["check"]: check for check in report["checks"]}
    assert by_name["replay"]["needed"] and not by_name["replay"]["ok"] and by_name["replay"]["advice"]
    assert by_name["valkey"]["ok"]


def test_lines_say_what_to_do():
    lacking = Finding(ok=False, found="no GPU", advice="use a CPU")
    needed, useful = (Result(check="gsplat", needed=need, finding=lacking) for need in (True, False))
    assert doctor.line(needed).split() == ["missing", "gsplat", "no", "GPU", "->", "use", "a", "CPU"]
    assert doctor.line(useful).startswith("optional")
    assert doctor.line(Result(check="ray", needed=True, finding=Finding(ok=True, found="2.60"))) == (
        "ok        ray            2.60\n"
    )
    assert "gsplat" in doctor.verdict("demo", [needed])
