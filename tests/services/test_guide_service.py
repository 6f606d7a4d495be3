"""These tests run the guide as a process: draws, reports, restarts, refusals."""

from dataclasses import dataclass

import grpc
import pytest
from service_process import ServiceProcess, run_to_exit
from service_thread import ServiceThread
from test_guide_schedule import SCAN, SPACE

from protos import guide_pb2 as pb
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import Configuration, Outcome
from protos.settings import save_settings
from services.guide import GuideClient, GuideServer, GuideSettings
from services.guide.schedule import Schedule

SETTINGS = GuideSettings(space=SPACE, seed=11)


@dataclass(frozen=True)
class Result:
    """An episode as an actor reports it."""

    configuration: Configuration
    outcome: Outcome
    steps: int = 40
    human_steps: int = 0
    version: int = 17


@pytest.fixture
def server(tmp_path):
    settings = save_settings(SETTINGS, tmp_path / "guide.json")
    arguments = ("--settings", str(settings), "--state", str(tmp_path / "state.json"))
    with ServiceProcess("services.guide", tmp_path, *arguments) as process:
        yield process


@pytest.fixture
def client(server):
    client = GuideClient(server.address, deadline_s=30)
    yield client
    client.close()


def test_a_process_draws_what_the_schedule_draws(client):
    local = Schedule(SETTINGS)
    local.set_success(SCAN)
    client.set_success(SCAN)
    assert client.last_draw() is None
    for n in range(10):
        configuration, reason = local.draw()
        draw = client.draw()
        assert (draw.configuration, draw.reason) == (configuration, reason)
        assert client.last_draw() == draw
        result = Result(configuration, Outcome.SUCCESS, human_steps=2)
        local.report(configuration, result.outcome, result.human_steps, report_id=f"draw {n}")
        client.report(result)
    assert client.success_map() == local.success_map()


class Forgetful(GuideServer):
    """Counts a report, but the answer is lost twice."""

    def __init__(self, settings):
        super().__init__(settings)
        self.received = []

    async def report(self, request, context):
        answer = await super().report(request, context)
        self.received.append(request.id)
        if len(self.received) <= 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return answer


def test_a_report_whose_answer_was_lost_counts_once():
    guide = Forgetful(SETTINGS)
    with ServiceThread(guide.handler()) as server:
        client = GuideClient(server.address, deadline_s=30)
        for n in range(2):
            client.report(Result(Configuration(region="A", cell=2), Outcome.SUCCESS))
            assert client.success_map()[2].real_episodes == n + 1
        client.close()
    assert guide.received == [guide.received[0]] * 3 + [guide.received[3]]
    assert len(set(guide.received)) == 2


def test_a_draw_that_cannot_be_is_not_acted_on():
    class Broken(GuideServer):
        async def next(self, request, context):
            return pb.Draw(configuration=pb.GuideConfiguration(poses={"cube": pb.GuidePose(x=float("nan"))}))

    with ServiceThread(Broken(SETTINGS).handler()) as server:
        client = GuideClient(server.address, deadline_s=30)
        with pytest.raises(CorruptData, match="pose of 'cube' is not finite"):
            client.next()
        client.close()


def test_kill_and_restart_changes_nothing(server, client):
    local = Schedule(SETTINGS)
    local.set_success(SCAN)
    client.set_success(SCAN)
    for turn in range(6):
        configuration, _ = local.draw()
        assert client.next() == configuration
        local.report(configuration, Outcome.FAILURE, 0, report_id=f"turn {turn}")
        client.report(Result(configuration, Outcome.FAILURE))
        if turn % 3 == 1:
            server.kill()
            server.start()
    assert client.success_map() == local.success_map()


def test_a_damaged_state_is_set_aside(server, client, tmp_path):
    client.set_success(SCAN)
    server.kill()
    state = tmp_path / "state.json"
    state.write_bytes(state.read_bytes()[:-20])
    server.start()
    assert client.success_map() == Schedule(SETTINGS).success_map()
    assert (tmp_path / "state.json.damaged").exists()
    assert "is damaged" in server.log.read_text()


def test_what_the_guide_refuses_comes_back_in_one_line(client):
    with pytest.raises(InputError, match="cell 8: this space has cells 0 to 7"):
        client.set_success({8: (1, 1)})
    with pytest.raises(InputError, match="when it is over"):
        client.report(Result(Configuration(region="A", cell=1), Outcome.RUNNING))
    assert client.success_map() == Schedule(SETTINGS).success_map()


def test_an_unreachable_guide_is_named_with_the_deadline():
    client = GuideClient("127.0.0.1:1", deadline_s=0.5)
    with pytest.raises(Unreachable, match=r"guide service at 127\.0\.0\.1:1: .*deadline 0\.5 s") as error:
        client.next()
    assert "\n" not in str(error.value)
    client.close()


def test_settings_are_checked_at_start(tmp_path):
    settings = tmp_path / "guide.json"
    settings.write_text('{"space": {"manipulated": "cube", "regions": {}}, "taux": 0.5}')
    status, message = run_to_exit("services.guide", "--settings", str(settings))
    assert status == 2
    assert "nearest is 'tau'" in message
    assert message.count("\n") == 1


def test_other_hosts_need_a_token(tmp_path):
    settings = save_settings(SETTINGS, tmp_path / "guide.json")
    status, message = run_to_exit("services.guide", "--settings", str(settings), "--listen", "0.0.0.0:0")
    assert status == 2
    assert "--credentials.token" in message
