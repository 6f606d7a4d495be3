"""What each role does all day, done with the files that `twinrl certificates` gives it: over TLS, as its own user."""

import shutil
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from position_samples import assert_level, come_back
from replay_samples import SCHEMA, make_segment, reader_of
from replay_tls import TlsProxy
from service_process import ServiceProcess, until
from test_guide_schedule import SCAN, SPACE

from actors.sim.scanning import ScanGuide
from learner.stage.data import EpisodeNames, episodes_named, seed_demonstrations, selected_episodes
from learner.stage.settings import ResumeSettings, RlSettings, SftSettings
from protos.errors import InputError
from protos.schema import Configuration, Outcome
from protos.settings import save_settings
from services.guide import GuideClient, GuideSettings, SteadyGuide
from services.monitor import Addresses, Rates, alarms, read_cluster
from services.monitor.prometheus import samples
from services.net import Credentials
from services.replay import (
    EmbeddedServer,
    Lease,
    ReplaySettings,
    ReplayWriter,
    ServerConfig,
    delete_buffer,
    read_lease,
    totals,
)
from services.weights import WeightPublisher, WeightSubscriber, lead
from twinrl.commands import certificates, export
from twinrl.doctor import machine

TIMEOUT_S = 30.0
PREFIX = "twinrl-lab"
ROLES = ("learner", "twin", "robot", "guide", "monitor", "console")


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A lab's addresses and the folder of its certificates."""

    certs: Path
    replay: str
    weights: str
    guide: str

    def credentials(self, role: str) -> Credentials:
        return Credentials(folder=self.certs / role)

    def settings(self, role: str) -> ReplaySettings:
        return ReplaySettings(urls=(self.replay,), prefix=PREFIX, credentials=self.credentials(role))

    def addresses(self, role: str) -> Addresses:
        return Addresses(
            replay=(self.replay,),
            prefix=PREFIX,
            weights=self.weights,
            guide=self.guide,
            credentials=self.credentials(role),
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Starts the services of a lab as docs/cluster.md does, the replay behind a proxy for TLS."""
    folder = tmp_path_factory.mktemp("lab")
    certs = folder / "certs"
    assert certificates.main(["--out", str(certs), "--host", "127.0.0.1", "--prefix", PREFIX]) == 0
    serving = ["--credentials.folder", str(certs / "server")]
    guide = save_settings(GuideSettings(space=SPACE), folder / "guide.json")
    for name in ("weights", "guide"):
        (folder / name).mkdir()
    config = ServerConfig(users=(certs / "users.acl",), credentials=Credentials(password=certs / "admin" / "password"))
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "data", config))
        proxy = stack.enter_context(TlsProxy(server.socket, Credentials(folder=certs / "server")))
        weights = ServiceProcess("services.weights", folder / "weights", "--store", str(folder / "store"), *serving)
        guide = ServiceProcess("services.guide", folder / "guide", "--settings", str(guide), *serving)
        yield Lab(
            certs=certs,
            replay=f"rediss://127.0.0.1:{proxy.port}",
            weights=stack.enter_context(weights).address,
            guide=stack.enter_context(guide).address,
        )


def write(lab, role, buffer, count, **options):
    """Writes episodes as an actor of a role, which waits for its allowance too."""
    rng = np.random.default_rng(len(buffer))
    with ReplayWriter(lab.settings(role), SCHEMA, actor=f"{role}-{buffer}", spool=None) as writer:
        for number in range(count):
            writer.add(make_segment(rng, episode=f"{role}-{buffer}-{number}", **options), [buffer])
        writer.wait_for_allowance(buffer, stop=lambda: False)
        assert writer.flush(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("role", "buffer"), [("twin", "demo"), ("twin", "twin"), ("robot", "demo"), ("robot", "real"), ("robot", "human")]
)
def test_actors_write(lab, role, buffer):
    before = totals(lab.settings("learner"))[buffer]
    write(lab, role, buffer, 1)
    assert totals(lab.settings("learner"))[buffer] == before + 4


def test_the_learner_reads_and_resumes_and_empties(lab):
    write(lab, "twin", "twin", 3)
    learner = lab.settings("learner")
    with closing(reader_of(learner)) as reader:
        reader.allow("twin", 1_000)
        while reader.poll():
            pass
        assert reader.counts()["twin"] >= 12
        with closing(come_back(reader, learner)) as resumed:
            assert_level(reader, resumed)
        assert [peer.name for peer in read_cluster(lab.addresses("monitor").settings()).readers] != []
    assert delete_buffer(learner, "twin") >= 3


def test_the_learner_alone_leads_and_others_see_it(lab):
    with Lease(lab.settings("learner"), name="rl") as lease:
        assert lease.take()
        lead(lab.weights, lease, credentials=lab.credentials("learner"))
        with closing(reader_of(lab.settings("learner"), lease=lambda: lease.number)) as reader:
            reader.allow("twin", 1_000)
            reader.poll()
        assert read_lease(lab.settings("monitor")).holder.name == "rl"
        for role in ("twin", "robot", "monitor"):
            with Lease(lab.settings(role), name=role) as other, pytest.raises(InputError, match="may not do this"):
                other.take()
            with pytest.raises(InputError, match=f"the role {role} may not call Weights/"):
                lead(lab.weights, lease, credentials=lab.credentials(role))
        lease.confirm()
    assert read_lease(lab.settings("monitor")) is None


def test_fine_tuning_reads_demonstrations_now_and_after_a_restart(lab):
    write(lab, "twin", "demo", 2)
    settings = SftSettings(replay=lab.settings("learner"), schema=SCHEMA, data_timeout_s=TIMEOUT_S)
    episodes, names = selected_episodes(settings, lambda: False)
    assert len(episodes) >= 2 and isinstance(names, EpisodeNames)
    again = episodes_named(settings.replay, SCHEMA, names, ResumeSettings(timeout_s=TIMEOUT_S), lambda: False)
    assert [episode.name for episode in again] == [episode.name for episode in episodes]


def test_rl_copies_successes_of_the_twin_to_the_demonstrations(lab):
    write(lab, "twin", "twin", 2, outcome=Outcome.SUCCESS)
    settings = RlSettings(replay=lab.settings("learner"), schema=SCHEMA, policy=Path("p"), stage="lab-rl")
    assert seed_demonstrations(replace(settings, seed_twin_episodes=2), lambda: False) == 2


def test_export_reads_as_the_learner_and_as_nobody_else(lab, tmp_path):
    write(lab, "robot", "real", 2, outcome=Outcome.SUCCESS)
    arguments = ["--replay", lab.replay, "--prefix", PREFIX, "--buffer", "real", "--format", "rlds"]
    out = tmp_path / "dataset"
    assert export.main([*arguments, "--credentials.folder", str(lab.certs / "learner"), "--out", str(out)]) == 0
    assert any(out.rglob("*.tfrecord*"))
    with pytest.raises(InputError, match=r"the user twinrl-lab\.monitor may not do this"):
        export.main([*arguments, "--credentials.folder", str(lab.certs / "monitor"), "--out", str(tmp_path / "none")])


@pytest.mark.parametrize("role", ["monitor", "console"])
def test_status_and_metrics_show_everything(lab, role):
    reading = read_cluster(lab.addresses(role).settings())
    assert [stats.problem for stats in reading.shards] == [""]
    values = {sample.name: sample.value for sample in samples(reading)}
    assert (values["replay_up"], values["weights_up"], values["guide_up"]) == (1.0, 1.0, 1.0)
    assert set(reading.certificates) == {"shard 0", "weights", "guide", "this monitor"}
    assert all(364 < seconds / 86_400 < 365 for seconds in reading.certificates.values())


def test_a_writer_whose_certificate_is_gone_goes_on_until_its_connection_breaks(lab, tmp_path):
    shutil.copytree(lab.certs / "twin", tmp_path / "twin")
    settings = replace(lab.settings("twin"), credentials=Credentials(folder=tmp_path / "twin"))
    seen = lab.addresses("monitor").settings()
    with ReplayWriter(settings, SCHEMA, actor="node4", spool=None) as writer:
        until(lambda: writer.stats()["connected"], "the writer is connected")
        (tmp_path / "twin" / "certificate.pem").unlink()

        def told():
            return [peer.stats["certificate_left_s"] for peer in read_cluster(seen).writers if peer.name == "node4"]

        until(lambda: told() == [0.0], "the monitor hears that it is gone")
        writer.add(make_segment(np.random.default_rng(0)), ["twin"])
        assert writer.flush(TIMEOUT_S) == 0
        assert writer.stats()["failures"] == 0


def test_a_certificate_that_ends_soon_is_an_alarm(lab):
    with ReplayWriter(lab.settings("twin"), SCHEMA, actor="node3", spool=None) as writer:
        until(lambda: writer.stats()["connected"], "the writer is connected")
        settings = lab.addresses("monitor").settings()
        until(lambda: read_cluster(settings).writers != [], "the monitor hears of it")
        reading = read_cluster(settings)
    (told,) = (peer.stats["certificate_left_s"] for peer in reading.writers if peer.name == "node3")
    assert 364 < told / 86_400 < 365
    assert not [alarm for alarm in alarms(reading, Rates()) if "certificate" in alarm.text]
    near = replace(reading, certificates={"weights": 3.5 * 86_400, "guide": 40 * 86_400})
    (found,) = (alarm for alarm in alarms(near, Rates()) if "certificate" in alarm.text)
    assert found.text == "weights: the certificate expires in 3.5 days; `twinrl certificates renew`"


@pytest.mark.parametrize("role", ROLES)
def test_the_doctor_asks_every_server_as_any_role(lab, role):
    finding = machine.replay(lab.settings(role), TIMEOUT_S)
    assert finding.ok and "answers in" in finding.found


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A finished episode, as the guide counts it."""

    configuration: Configuration
    outcome: Outcome = Outcome.SUCCESS
    steps: int = 4
    human_steps: int = 0
    version: int = 1


def test_weights_go_from_the_learner_to_twins_and_arms(lab):
    credentials = lab.credentials("learner")
    with Lease(lab.settings("learner"), name="rl") as lease:
        assert lease.take()
        lead(lab.weights, lease, credentials=credentials)
        with closing(WeightPublisher(lab.weights, credentials=credentials, lease=lease.number)) as publisher:
            publisher.publish({"head": {"w": np.ones(3, np.float32)}}, settings={})
            newest = publisher.wait(TIMEOUT_S)
    for role in ("twin", "robot"):
        with closing(WeightSubscriber(lab.weights, name=role, credentials=lab.credentials(role))) as subscriber:
            assert subscriber.wait(newest, TIMEOUT_S).version >= newest
            until(lambda role=role: role in watching(lab), "the monitor sees who follows")


def watching(lab):
    reading = read_cluster(lab.addresses("monitor").settings())
    return [watcher.name for watcher in reading.weights.watchers if watcher.using]


def test_scanning_twins_tell_the_guide_and_the_arm_asks_it(lab):
    with closing(GuideClient(lab.guide, credentials=lab.credentials("guide"))) as teller:
        teller.set_success(SCAN, version=1)
        scan = ScanGuide(teller)
        start = scan.next() or SPACE.sample(np.random.default_rng(0), region="A")
        scan.report(Episode(configuration=start))
        assert scan.scans == 1
        with pytest.raises(InputError, match="the role guide may not report an episode of the arm"):
            teller.report(Episode(configuration=start))
    with closing(GuideClient(lab.guide, credentials=lab.credentials("robot"))) as client:
        steady = SteadyGuide(client, SPACE, seed=0)
        steady.report(Episode(configuration=steady.next()))
        assert steady.away == ""
        with pytest.raises(InputError, match="the role robot may not report a scan of the twin"):
            client.report(Episode(configuration=start), twin=True)
    with closing(GuideClient(lab.guide, credentials=lab.credentials("console"))) as console:
        assert console.last_draw() is not None
