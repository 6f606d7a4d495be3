"""What is set at the teach pendant is read before anything moves, and again when a person has said "go on"."""

import logging
import re

import numpy as np
import pytest
from standin import BOX, ideal_robot, until

from actors.real import PendantSettings
from actors.real.arm import ArmSettings, UrArm
from actors.real.pendant import PendantReading
from actors.real.safety import Limits, LimitSettings
from protos.errors import ArmStopped, InputError
from twin.robots import UR5E

pytest.importorskip("rtde_control")
OWN_TCP = (0.0, 0.0, 0.15, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(pace=0.02) as robot:
        yield robot


@pytest.fixture
def pendant(robot):
    """Changes what the pendant shows, for one test."""
    before = robot.lab.pendant()
    yield robot.lab.pendant
    robot.lab.pendant(**before)


def connect(robot, *, model="ur5e", **settings):
    arm = ArmSettings(
        host=robot.host, model=model, pendant=PendantSettings(**settings), connect_timeout_s=15.0, hold_after_s=1.0
    )
    return UrArm(arm, Limits(BOX, LimitSettings()), armed=True)


FAULTS = {
    "TCP 20 mm short": (
        {"tcp_offset": (0, 0, 0.13, 0, 0, 0)},
        r"TCP offset .*130\).*expected .*150\).*20.0 mm",
    ),
    "no TCP": ({"tcp_offset": (0,) * 6}, r"TCP offset \(0, 0, 0\).*expected \(0, 0, 150\)"),
    "TCP turned": ({"tcp_offset": (0, 0, 0.15, 0, 0, 0.4)}, r"22.9 degrees apart, at most .* 1.1"),
    "payload": ({"payload_kg": 2.5}, r"payload 2.50 kg, expected 0.92.*set the payload"),
    "no payload": ({"payload_kg": 0.0}, r"payload 0.00 kg, expected 0.92"),
    "centre of gravity": ({"payload_cog_m": (0, 0.05, 0.06)}, r"gravity \(0, 50, 60\) mm, expected \(0, 0, 58\) mm"),
    "force zero": ({"force_bias": (0, 0, 30, 0, 0, 0)}, r"force at rest 30 N \(at most 20\).*zero the force sensor"),
    "slider": ({"speed_slider": 0.4}, r"speed slider at 40 % \(at least 100 %\): move it up"),
    "local control": ({"is_remote": False}, r"in local control: choose remote control at the pendant"),
    "CB3": ({"software": "3.15.8.0"}, r"software is 3.15.8.0, older than .*5.4.*CB3"),
    "PolyScope 5.3": ({"software": "5.3.0.0"}, r"software is 5.3.0.0, older than .*5.4.*; ur_rtde .* update"),
    "another arm": ({"model": "UR10"}, r"it drives a UR10, arm.model is 'ur5e'"),
}
STOPS = {
    "protective stop": ({"safety": "PROTECTIVE_STOP"}, "safety PROTECTIVE_STOP: find the cause"),
    "recovery": ({"safety": "RECOVERY"}, "safety RECOVERY: .*jog it back"),
    "safeguard": ({"safety": "SAFEGUARD_STOP"}, "safety SAFEGUARD_STOP: close the safeguard"),
    "emergency": ({"safety": "ROBOT_EMERGENCY_STOP"}, "robot mode POWER_OFF.*safety ROBOT_EMERGENCY_STOP: release"),
    "violation": ({"safety": "VIOLATION"}, "safety VIOLATION: restart the safety system"),
    "off": ({"power": "POWER_OFF"}, "robot mode POWER_OFF: switch the arm on and release its brakes"),
    "brakes": ({"power": "IDLE"}, "robot mode IDLE: switch the arm on and release its brakes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_differs_is_refused_with_both_numbers_and_the_remedy(fault, robot, pendant):
    changes, words = FAULTS[fault]
    pendant(**changes)
    with robot.unmoved(), pytest.raises(InputError, match=words):
        connect(robot)


@pytest.mark.parametrize("fault", STOPS)
def test_a_robot_that_is_not_ready_is_told_with_the_remedy(fault, robot, pendant):
    changes, words = STOPS[fault]
    pendant(**changes)
    with robot.unmoved(), pytest.raises(ArmStopped, match=words):
        connect(robot)


def test_all_that_differs_is_said_at_once(robot, pendant):
    pendant(tcp_offset=(0,) * 6, payload_kg=3.0, speed_slider=0.5)
    with pytest.raises(InputError, match=r"TCP offset .*; payload 3.00 kg.*; speed slider at 50 %"):
        connect(robot)
    pendant(is_remote=False, model="UR3", safety="RECOVERY")
    with pytest.raises(ArmStopped, match=r"RECOVERY.*; it is in local control.*; it drives a UR3"):
        connect(robot)


def test_a_pendant_that_is_set_right_is_accepted(robot, pendant):
    pendant(safety="REDUCED", tcp_offset=(0, 0, 0.1515, 0, 0, 0), payload_kg=1.0, force_bias=(0, 0, 5, 0, 0, 0))
    with robot.unmoved(), connect(robot) as arm:
        assert arm.can_be_commanded()
    pendant(tcp_offset=(0, 0, 0.2, 0, 0, 0), payload_kg=1.4, payload_cog_m=(0, 0, 0.08), speed_slider=0.6)
    wanted = {"tcp_offset": (0, 0, 0.2, 0, 0, 0), "payload_kg": 1.4, "payload_cog_m": (0, 0, 0.08), "speed_slider": 0.5}
    with connect(robot, **wanted) as arm:
        assert arm.can_be_commanded()


@pytest.mark.parametrize("software", ["5.4.0.0", "5.5.1.0", "3.15.8.0"])
def test_old_software_that_cannot_tell_is_a_doubt_and_no_local_control(software, robot, pendant, caplog):
    pendant(software=software)
    with caplog.at_level(logging.WARNING), connect(robot, oldest_software="3.0") as arm:
        assert arm.can_be_commanded()
    told = [record.getMessage() for record in caplog.records if software in record.getMessage()]
    assert len([line for line in told if "cannot tell whether the robot is in remote control" in line]) == 1
    assert len([line for line in told if "cannot tell the payload" in line]) == 1


def test_an_arm_of_other_lengths_is_refused(robot, pendant):
    pendant(model="UR10")
    with (
        robot.unmoved(),
        pytest.raises(InputError, match=r"TCP is \d{3} mm .*model puts it \(at most 20 mm.*arm.model"),
    ):
        connect(robot, model="ur10e")


def test_after_a_hold_the_pendant_is_read_again(robot, pendant):
    with connect(robot) as arm:
        arm.release()
        pendant(tcp_offset=(0, 0, 0.13, 0, 0, 0))
        with robot.unmoved(), pytest.raises(ArmStopped, match=r"TCP offset .*130\).*expected .*150\)"):
            arm.release()
        assert "TCP offset" in arm.held
        pendant(tcp_offset=OWN_TCP, force_bias=(0, 0, 30, 0, 0, 0))
        arm.release()
        assert not arm.held, "a tool that was pressed may still be: the force has its own limit"


def test_a_slider_that_is_moved_while_the_arm_moves_holds_it(robot, pendant):
    with connect(robot) as arm:
        arm.release()
        goal = arm.anchor()
        arm.servo(goal, 0.1)
        pendant(speed_slider=0.4)
        until(lambda: arm._link.speed_slider < 0.5, "the slider is told")
        goal[0] += 0.02
        with robot.unmoved(), pytest.raises(ArmStopped, match=r"speed slider at 40 % \(at least 100 %\)"):
            arm.servo(goal, 0.1)
        assert arm.can_be_commanded() and "speed slider" in arm.held
        pendant(speed_slider=1.0)
        arm.release()
        np.testing.assert_allclose(arm.servo(goal, 0.1), goal)


def reading(**changes):
    right = {"tcp_offset": np.array(OWN_TCP), "payload_kg": 0.925, "payload_cog_m": np.array([0, 0, 0.058])}
    right["off_model"] = (0.003, 0.004)
    return PendantReading(**({**right, "force_n": 3.0, "speed_slider": 1.0} | changes))


@pytest.mark.parametrize(
    "strange",
    [
        {"tcp_offset": np.full(6, np.nan)},
        {"payload_kg": float("nan")},
        {"payload_cog_m": np.full(3, np.inf)},
        {"force_n": float("nan")},
        {"off_model": (float("nan"), 0.0)},
        {"off_model": (0.0, float("nan"))},
        {"speed_slider": float("nan")},
    ],
)
def test_what_is_no_number_differs(strange):
    assert PendantSettings().differences(reading(), at_rest=True) == []
    assert len(PendantSettings().differences(reading(**strange), at_rest=True)) == 1


def test_the_settings_of_a_robot_agree_with_its_own_pendant():
    assert PendantSettings.of(UR5E).differences(reading(), at_rest=True) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tcp_tolerance_m": 1.0}, "0.0001 to 0.01"),
        ({"tcp_tolerance_m": float("nan")}, "0.0001 to 0.01"),
        ({"payload_tolerance_kg": float("inf")}, "0.01 to 0.5"),
        ({"cog_tolerance_m": 0.5}, "0.001 to 0.05"),
        ({"rest_force_n": 1e9}, "1 to 40"),
        ({"speed_slider": 0.0}, "0.01 to 1"),
        ({"payload_kg": -1.0}, "0 to 20 kg"),
        ({"tcp_offset": (0, 0, 150.0, 0, 0, 0)}, "within 1 m"),
        ({"payload_cog_m": (0, 0, float("nan"))}, "finite"),
        ({"oldest_software": "new"}, "numbers"),
    ],
)
def test_no_setting_switches_a_check_off(wrong, words):
    with pytest.raises(InputError, match=re.escape(words)):
        PendantSettings(**wrong)
