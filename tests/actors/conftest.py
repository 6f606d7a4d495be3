"""What several tests of the arm start from: ur_rtde's clients of the module's robot, and an untrained policy."""

import pytest
from standin import start_again, until


@pytest.fixture(scope="module")
def connected(robot):
    """Provides ur_rtde's clients of the module's `robot`: control and receive."""
    control = pytest.importorskip("rtde_control")
    receive = pytest.importorskip("rtde_receive").RTDEReceiveInterface(robot.host)
    control = control.RTDEControlInterface(robot.host)
    yield control, receive
    control.disconnect()
    receive.disconnect()


@pytest.fixture
def clients(robot, connected):
    """Provides both clients, with the script running whatever the test before did; puts the pendant back after it."""
    control, receive = connected
    before = robot.lab.pendant()
    robot.pendant("unlock protective stop")
    until(lambda: not receive.isProtectiveStopped(), "the stop is released")
    if not control.isProgramRunning():
        start_again(control)
    yield connected
    robot.lab.pendant(**before)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Provides the folder of an untrained policy, and the policy."""
    torch = pytest.importorskip("torch")
    from policy.checkpoint import save_policy
    from policy.model import Policy
    from policy.settings import preset

    torch.manual_seed(0)
    policy = Policy(preset("tiny"))
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder, policy)
    return folder, policy
