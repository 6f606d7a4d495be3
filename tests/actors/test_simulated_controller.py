"""The real ur_rtde client against the simulated controller, with an arm that is where it is told to be."""

import time

import numpy as np
import pytest
from standin import ideal_robot, start_again, until

rtde_control = pytest.importorskip("rtde_control")
rtde_receive = pytest.importorskip("rtde_receive")


@pytest.fixture(scope="module")
def robot():
    with ideal_robot() as robot:
        yield robot


def fresh(receive):
    """Returns the TCP pose of the next package."""
    before = receive.getTimestamp()
    until(lambda: receive.getTimestamp() > before, "the stream goes on")
    return np.array(receive.getActualTCPPose())


def shifted(pose, *by):
    return (np.array(pose) + np.concatenate([by, np.zeros(6 - len(by))])).tolist()


def test_connects_and_reads(clients):
    control, receive = clients
    assert control.isConnected() and control.isProgramRunning()
    assert receive.getRobotMode() == 7 and receive.getSafetyMode() == 1
    np.testing.assert_allclose(receive.getActualTCPPose()[:3], [-0.54, 0.0, 0.16], atol=1e-4)


def test_move_line_arrives_exactly(clients):
    control, receive = clients
    goal = shifted(fresh(receive), 0.03, 0.05, -0.04)
    assert control.moveL(goal, 0.25, 1.2)
    np.testing.assert_allclose(fresh(receive), goal, atol=1e-4)


def test_move_joints_takes_robot_time_and_no_wall_time(clients):
    control, receive = clients
    q = np.array(receive.getActualQ())
    began = receive.getTimestamp()
    goal = q + 0.3 * np.eye(6)[0]
    assert control.moveJ(goal.tolist(), 1.0, 2.0)
    fresh(receive)
    np.testing.assert_allclose(receive.getActualQ(), goal, atol=1e-5)
    assert receive.getTimestamp() - began > 0.75, "a triangle of 0.3 rad at 2 rad/s2"
    assert control.moveJ(q.tolist(), 1.0, 2.0)


def test_an_asynchronous_move_returns_and_arrives(clients):
    control, receive = clients
    goal = shifted(fresh(receive), 0.0, 0.02)
    assert control.moveL(goal, 0.25, 1.2, True)
    np.testing.assert_allclose(fresh(receive), goal, atol=1e-4)


def test_every_servo_command_grants_its_time(clients):
    control, receive = clients
    pose, began = fresh(receive), receive.getTimestamp()
    for i in range(50):
        assert control.servoL(shifted(pose, 0.001 * (i + 1)), 0, 0, 0.02, 0.1, 300)
        until(lambda due=began + 0.02 * (i + 1): receive.getTimestamp() >= due - 1e-6, "the clock runs ahead")
    assert control.servoStop()
    np.testing.assert_allclose(fresh(receive), shifted(pose, 0.05), atol=1e-4)


def test_servo_joints(clients):
    control, receive = clients
    fresh(receive)
    q = np.array(receive.getActualQ())
    assert control.servoJ((q + 0.02).tolist(), 0, 0, 0.02, 0.1, 300)
    fresh(receive)
    np.testing.assert_allclose(receive.getActualQ(), q + 0.02, atol=1e-6)
    assert control.servoStop()


def test_speed_commands(clients):
    control, receive = clients
    pose = fresh(receive)
    assert control.speedL([0, 0, 0.05, 0, 0, 0], 5.0, 0)
    until(lambda: fresh(receive)[2] > pose[2] + 0.005, "the tool rises")
    assert control.speedStop()
    still = fresh(receive)
    np.testing.assert_allclose(fresh(receive), still, atol=1e-6)


def test_kinematics_on_the_controller(clients):
    control, receive = clients
    q, pose = receive.getActualQ(), fresh(receive)
    np.testing.assert_allclose(control.getForwardKinematics(q, [0, 0, 0.15, 0, 0, 0]), pose, atol=1e-6)
    np.testing.assert_allclose(control.getInverseKinematics(pose.tolist()), q, atol=1e-3)
    np.testing.assert_allclose(control.getTCPOffset(), [0, 0, 0.15, 0, 0, 0])
    assert control.isSteady() and control.isPoseWithinSafetyLimits(pose.tolist())
    assert not control.isPoseWithinSafetyLimits(shifted(pose, 3.0))
    assert control.isJointsWithinSafetyLimits(q) and not control.isJointsWithinSafetyLimits([7.0] * 6)


def test_the_script_can_be_stopped_and_uploaded_again(clients):
    control, receive = clients
    control.stopScript()
    until(lambda: not control.isProgramRunning(), "the script ends")
    start_again(control)
    assert control.moveL(shifted(fresh(receive), 0, 0, -0.01), 0.25, 1.2)


def test_a_protective_stop_stops_everything_until_it_is_unlocked(robot, clients):
    control, receive = clients
    robot.protective_stop()
    until(receive.isProtectiveStopped, "the stop is told")
    pose = fresh(receive)
    assert not control.servoL(shifted(pose, 0.05), 0, 0, 0.02, 0.1, 300)
    assert not control.moveL(shifted(pose, 0.05), 0.25, 1.2)
    np.testing.assert_allclose(fresh(receive), pose, atol=1e-9)
    assert "PROTECTIVE_STOP" in robot.pendant("safetystatus")
    robot.pendant("unlock protective stop")
    until(lambda: not receive.isProtectiveStopped(), "the stop is released")
    np.testing.assert_allclose(fresh(receive), pose, atol=1e-9, err_msg="unlocking moves nothing")


def test_a_jump_of_the_servo_target_is_a_protective_stop(clients):
    control, receive = clients
    q = np.array(receive.getActualQ())
    control.servoJ((q + 1.0).tolist(), 0, 0, 0.02, 0.1, 300)
    until(receive.isProtectiveStopped, "the stop is told")
    np.testing.assert_allclose(receive.getActualQ(), q, atol=1e-6)


def test_a_pose_out_of_reach_is_a_protective_stop(clients):
    control, receive = clients
    assert not control.moveL(shifted(fresh(receive), 3.0), 0.25, 1.2)
    until(receive.isProtectiveStopped, "the stop is told")


def test_an_unknown_command_stops_the_script_instead_of_pretending(clients):
    control, _ = clients
    control.toolContact([0, 0, 1, 0, 0, 0])
    until(lambda: not control.isProgramRunning(), "the script ends", seconds=20)


def test_the_watchdog_of_the_script_ends_it_when_nobody_speaks():
    """The robot's clock is slow, so that a stall of this computer does not count as silence."""
    with ideal_robot(fast=False, pace=0.05) as robot:
        control = rtde_control.RTDEControlInterface(robot.host)
        assert control.setWatchdog(100.0)
        until(lambda: not control.isProgramRunning(), "the watchdog ends the script")
        start_again(control)
        assert control.setWatchdog(10.0), "2 s of silence here"
        for _ in range(30):
            control.kickWatchdog()
            time.sleep(0.1)
        assert control.isProgramRunning()
        control.disconnect()


def test_where_the_clock_runs_ahead_the_watchdog_counts_the_time_of_commands_alone():
    with ideal_robot() as robot:
        control = rtde_control.RTDEControlInterface(robot.host)
        receive = rtde_receive.RTDEReceiveInterface(robot.host)
        assert control.setWatchdog(10.0)
        pose = fresh(receive)
        assert control.moveL(shifted(pose, 0.0, 0.05), 0.05, 0.5), "a second of robot time, within one command"
        time.sleep(0.5)
        assert control.isProgramRunning()
        control.disconnect()
        receive.disconnect()


def test_latency_delays_servo_targets_and_the_gripper():
    with ideal_robot(latency_steps=(2,), pace=0.02) as robot:
        control = rtde_control.RTDEControlInterface(robot.host)
        receive = rtde_receive.RTDEReceiveInterface(robot.host)
        pose, began = fresh(receive), receive.getTimestamp()
        moved_at = None
        for _ in range(20):
            now = receive.getTimestamp()
            control.servoL(shifted(pose, 0.01), 0, 0, 0.02, 0.1, 300)
            until(lambda due=now + 0.02: receive.getTimestamp() >= due - 1e-6, "the clock runs ahead")
            if moved_at is None and receive.getActualTCPPose()[0] > pose[0] + 0.005:
                moved_at = receive.getTimestamp() - began
        assert 0.19 < moved_at < 0.26
        control.disconnect()
        receive.disconnect()
