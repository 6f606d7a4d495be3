"""The pendant of the simulated controller, by the real ur_rtde clients: what is set has its effect, and is told."""

import socket
import struct
import time

import numpy as np
import pytest
from standin import ideal_robot, start_again, until

from actors.simulated_ur.rtde import RTDE_PORT
from protos.errors import InputError

rtde_control = pytest.importorskip("rtde_control")
rtde_io = pytest.importorskip("rtde_io")
rtde_receive = pytest.importorskip("rtde_receive")
dashboard_client = pytest.importorskip("dashboard_client")


@pytest.fixture(scope="module")
def robot():
    with ideal_robot() as robot:
        yield robot


@pytest.fixture
def dashboard(robot):
    dashboard = dashboard_client.DashboardClient(robot.host)
    dashboard.connect(2000)
    yield dashboard
    dashboard.disconnect()


def test_set_tcp_moves_the_reported_pose_and_not_the_arm(robot, clients):
    control, receive = clients
    before = np.array(receive.getActualTCPPose())
    with robot.unmoved():
        assert control.setTcp([0, 0, 0.2, 0, 0, 0])
        until(lambda: abs(receive.getActualTCPPose()[2] - before[2] + 0.05) < 1e-4, "5 cm lower")
    np.testing.assert_allclose(control.getTCPOffset(), [0, 0, 0.2, 0, 0, 0])
    flange = before[:3] + np.array([0, 0, 0.15])
    # ur_rtde does not wait for this answer: it reads what is in the registers
    until(lambda: np.allclose(control.getActualToolFlangePose()[:3], flange, atol=1e-3), "the flange is where it was")
    goal = [*np.add(receive.getActualTCPPose()[:3], [0, 0, 0.02]), *before[3:]]
    assert control.moveL(goal, 0.25, 1.2)
    until(lambda: np.allclose(receive.getActualTCPPose(), goal, atol=1e-4), "it arrives with the new tool")


def test_set_payload_is_told(clients):
    control, receive = clients
    assert control.setPayload(1.5, [0.0, 0.01, 0.05])
    until(lambda: receive.getPayload() == 1.5, "the payload is told")
    np.testing.assert_allclose(receive.getPayloadCog(), [0.0, 0.01, 0.05])
    assert control.setPayload(1.7, [0.0, 0.0, 0.0])
    until(lambda: receive.getPayload() == 1.7, "the payload is told")
    np.testing.assert_allclose(receive.getPayloadCog(), [0.0, 0.01, 0.05], err_msg="three zeros leave it as it is")


def test_the_force_sensor_is_zeroed(robot, clients):
    control, receive = clients
    robot.lab.pendant(force_bias=(0, 0, 30, 0, 0, 1))
    until(lambda: receive.getActualTCPForce()[2] == 30, "the bias shows")
    assert control.zeroFtSensor()
    until(lambda: not np.any(receive.getActualTCPForce()), "it is gone")


def test_the_slider_and_the_outputs_of_the_io_client(robot, clients):
    control, receive = clients
    io = rtde_io.RTDEIOInterface(robot.host)
    assert io.setSpeedSlider(0.5)
    until(lambda: receive.getTargetSpeedFraction() == 0.5 == receive.getSpeedScaling(), "the slider is told")
    assert io.setStandardDigitalOut(3, True) and io.setConfigurableDigitalOut(1, True) and io.setToolDigitalOut(0, True)
    until(lambda: receive.getActualDigitalOutputBits() == 1 << 3 | 1 << 9 | 1 << 16, "three outputs are on")
    assert io.setStandardDigitalOut(3, False)
    until(lambda: not receive.getDigitalOutState(3), "one is off again")
    assert io.setAnalogOutputVoltage(1, 0.25)
    until(lambda: receive.getStandardAnalogOutput1() == pytest.approx(2.5), "a quarter of 10 V")
    io.disconnect()
    joints, began = np.array(receive.getActualQ()), receive.getTimestamp()
    assert control.moveJ((joints + 0.3 * np.eye(6)[0]).tolist(), 1.0, 2.0)
    assert receive.getTimestamp() - began > 1.4, "a triangle of 0.3 rad at 2 rad/s2, at half its speed"


def test_a_protective_stop_by_the_script(clients, dashboard):
    control, receive = clients
    control.triggerProtectiveStop()
    until(receive.isProtectiveStopped, "the stop is told")
    assert "PROTECTIVE_STOP" in dashboard.safetystatus() and "PROTECTIVE_STOP" in dashboard.safetymode()
    assert not dashboard.running() and "STOPPED" in dashboard.programState()
    dashboard.unlockProtectiveStop()
    until(lambda: not receive.isProtectiveStopped(), "the stop is released")


def test_arithmetic_and_freedrive_do_not_end_the_script(clients):
    control, _ = clients
    pose = control.poseTrans([0.1, 0.2, 0.3, 0, 0, np.pi / 2], [0.1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(pose, [0.1, 0.3, 0.3, 0, 0, np.pi / 2], atol=1e-9)
    assert control.teachMode() and control.endTeachMode()
    assert control.freedriveMode() and control.endFreedriveMode()
    assert control.forceModeSetDamping(0.1) and control.isProgramRunning()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (lambda control: control.toolContact([0, 0, 1, 0, 0, 0]), "toolContact"),
        (lambda control: control.jogStart([0, 0, 0.1, 0, 0, 0]), "jogStart"),
        (lambda control: control.forceMode([0] * 6, [0] * 6, [0] * 6, 2, [0.1] * 6), "forceMode"),
        (lambda control: control.startContactDetection(), "startContactDetection"),
    ],
)
def test_what_is_not_simulated_ends_the_script_with_its_name_at_the_pendant(command, name, robot, clients):
    control, _ = clients
    with robot.unmoved():
        command(control)
        until(lambda: not control.isProgramRunning(), "the script ends", seconds=20)
    assert name in robot.lab.popup()


def test_a_speed_of_zero_is_an_error_of_the_script_and_no_crash(robot, clients):
    control, _ = clients
    first = robot.pendant("running")
    with raw_client(robot.host, b"input_int_register_30") as other:
        write(other, struct.pack(">i", 1))
        assert robot.pendant("running") == first == "Program running: true", "a register of another purpose"
    control.moveL([float("nan")] * 6, 0.25, 1.2)
    until(lambda: not control.isProgramRunning(), "the script ends")
    assert "must be finite" in robot.lab.popup()
    assert robot.pendant("close popup") == "closing popup" and robot.lab.popup() == ""


def test_streamed_speed_goes_on_from_the_speed_reached(robot, clients):
    """Restarted at every command, an acceleration of 0.25 m/s2 would never get beyond 5 mm/s."""
    control, receive = clients
    before, began = np.array(receive.getActualTCPPose()), receive.getTimestamp()
    while receive.getTimestamp() < began + 1.0:
        assert control.speedL([0, 0, 0.05, 0, 0, 0], 1.0, 0.02)
        time.sleep(0.02)
    assert control.speedStop()
    assert receive.getActualTCPPose()[2] > before[2] + 0.03
    assert control.moveL(before.tolist(), 0.25, 1.2)


def test_a_second_client_of_the_same_registers_is_refused(robot, clients):
    control, _ = clients
    with pytest.raises(RuntimeError, match="already in use"):
        rtde_control.RTDEControlInterface(robot.host)
    assert control.isProgramRunning(), "the first one goes on"


def test_local_control_ignores_scripts_and_commands(robot, clients, dashboard):
    control, _ = clients
    robot.lab.pendant(is_remote=False)
    until(lambda: not control.isProgramRunning(), "the script has ended")
    assert not dashboard.isInRemoteControl()
    assert control.reuploadScript() and not dashboard.running()
    with pytest.raises(RuntimeError, match="switch robot to Remote Control"):
        dashboard.stop()
    dashboard.powerOff()
    assert "RUNNING" in dashboard.robotmode(), "refused"


def test_power_and_emergency_stop(robot, clients, dashboard):
    control, receive = clients
    with robot.unmoved():
        robot.lab.pendant(safety="ROBOT_EMERGENCY_STOP")
        until(receive.isEmergencyStopped, "the emergency stop is told")
        assert receive.getSafetyMode() == 7 and receive.getRobotMode() == 3 and not receive.getRobotStatus() & 1
        robot.lab.pendant(safety="NORMAL", power="POWER_OFF")
        dashboard.powerOn()
        assert "IDLE" in dashboard.robotmode() and not (control.reuploadScript() and dashboard.running())
        dashboard.brakeRelease()
        assert "RUNNING" in dashboard.robotmode()
        start_again(control)
        dashboard.powerOff()
        until(lambda: not control.isProgramRunning(), "the script has ended")
    robot.lab.pendant(safety="FAULT", power="RUNNING")
    dashboard.restartSafety()
    assert "NORMAL" in dashboard.safetystatus() and "POWER_OFF" in dashboard.robotmode()


def test_the_dashboard_of_old_software(robot, clients):
    robot.lab.pendant(software="3.10.0.0")
    for unknown in ("safetystatus", "is in remote control", "get serial number", "get robot model"):
        assert robot.pendant(unknown) == f'could not understand: "{unknown}"'
    assert robot.pendant("safetymode") == "Safetymode: NORMAL"
    robot.lab.pendant(software="5.6.0.0")
    assert robot.pendant("is in remote control") == "true" and robot.pendant("get robot model") == "UR5"


def test_words_at_the_dashboard(robot, dashboard):
    dashboard.popup("Look here")
    assert robot.lab.popup() == "Look here"
    dashboard.closePopup()
    assert robot.lab.popup() == ""
    with pytest.raises(RuntimeError, match="Failed to execute: play"):
        dashboard.play()
    assert dashboard.getLoadedProgram() == "No program loaded" and dashboard.getRobotModel() == "UR5"
    assert robot.pendant("load pick.urp") == "File not found: pick.urp"
    assert robot.pendant("open the pod bay doors").startswith("could not understand")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"safety": "FINE"}, "choose one of"),
        ({"software": "new"}, "four numbers"),
        ({"speed_slider": 2.0}, "0 to 1"),
        ({"colour": "red"}, "no such setting"),
        ({"force_bias": (0, 0, float("nan"), 0, 0, 0)}, "finite"),
    ],
)
def test_a_pendant_that_cannot_be(wrong, words, robot):
    before = robot.lab.pendant()
    with pytest.raises(InputError, match=words):
        robot.lab.pendant(**wrong)
    assert robot.lab.pendant() == before


def raw_client(host, inputs):
    wire = socket.create_connection((host, RTDE_PORT), timeout=5)
    wire.sendall(struct.pack(">HB", 3 + len(inputs), ord("I")) + inputs)
    size = struct.unpack(">HB", wire.recv(3))[0]
    assert wire.recv(size - 3) == b"\x01INT32"
    return wire


def write(wire, payload):
    wire.sendall(struct.pack(">HBB", 4 + len(payload), ord("U"), 1) + payload)
