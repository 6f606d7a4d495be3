"""Certificates that are renewed, revoked or expire while services and clients run; roles in tokens on loopback."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from service_process import ServiceProcess, until

from protos.errors import InputError, Unreachable
from services.net import Credentials, Role
from services.net.certificates import CertificateFolder, make_certificates
from services.weights import WeightPublisher, WeightSubscriber

TIMEOUT_S = 30.0


def flags(credentials):
    names = ("token", "authority", "certificate", "key", "revoked")
    given = {name: getattr(credentials, name) for name in names}
    return [word for name, path in given.items() if path for word in (f"--credentials.{name}", str(path))]


@pytest.fixture
def lab(tmp_path):
    made = make_certificates(tmp_path / "certs", hosts=["127.0.0.1"])
    return {name: replace(one, token=None) for name, one in made.items()}


@pytest.fixture
def weights(tmp_path, lab):
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *flags(lab["server"])) as one:
        yield one


def publish(publisher):
    publisher.publish({"head": {}}, settings={})
    return publisher.wait(TIMEOUT_S)


def test_renewed_certificates_are_used_without_a_restart(tmp_path, lab, weights):
    """Everybody gets a new certificate of a new authority, which believes none of the old ones."""
    with (
        closing(WeightPublisher(weights.address, credentials=lab["learner"])) as publisher,
        closing(WeightSubscriber(weights.address, name="arm", credentials=lab["robot"])) as subscriber,
    ):
        assert subscriber.wait(publish(publisher), TIMEOUT_S).version == 1
        old = {name: keep(one, tmp_path / "old" / name) for name, one in lab.items()}
        make_certificates(tmp_path / "new", hosts=["127.0.0.1"])
        for name in lab:
            for file in (tmp_path / "new" / name).iterdir():
                file.replace(tmp_path / "certs" / name / file.name)
        until(lambda: refused(weights.address, old["monitor"]), "the old authority's clients are refused")
        assert subscriber.wait(publish(publisher), TIMEOUT_S).version == 2
        with closing(WeightSubscriber(weights.address, name="late", credentials=lab["robot"])) as late:
            assert late.wait(2, TIMEOUT_S).version == 2
    assert "read again" in weights.log.read_text()


def keep(credentials, folder):
    """Copies the files of credentials to a folder of their own."""
    folder.mkdir(parents=True)
    paths = {name: path for name, path in vars(credentials).items() if path is not None}
    for path in paths.values():
        (folder / path.name).touch(mode=0o600)
        (folder / path.name).write_bytes(path.read_bytes())
    return replace(credentials, **{name: folder / path.name for name, path in paths.items()})


def refused(address, credentials):
    try:
        WeightPublisher(address, credentials=credentials, connect_deadline_s=1.0).close()
    except (InputError, Unreachable) as error:
        return "may not call" not in str(error)
    return False


def test_a_revoked_client_loses_what_it_follows_and_comes_back_never(tmp_path, lab, weights):
    robot = keep(lab["robot"], tmp_path / "stolen")
    with (
        closing(WeightPublisher(weights.address, credentials=lab["learner"])) as publisher,
        closing(WeightSubscriber(weights.address, name="thief", credentials=robot)) as thief,
        closing(WeightSubscriber(weights.address, name="twin", credentials=lab["twin"])) as twin,
    ):
        assert thief.wait(publish(publisher), TIMEOUT_S).version == 1
        CertificateFolder(tmp_path / "certs").revoke("robot")
        until(lambda: "read again" in weights.log.read_text() or publish(publisher) > 50, "the list is read again")
        newest = publish(publisher)
        assert twin.wait(newest, TIMEOUT_S).version == newest
        until(lambda: thief.stats()["failures"] > 1, "the thief is refused")
        with pytest.raises(Unreachable, match="the client's certificate was revoked"):
            thief.wait(newest, 0.01)


def test_an_arm_takes_only_what_the_learner_published(tmp_path):
    """A service without roles hands on what it was given; who has a role asks whom it is from."""
    lab = make_certificates(tmp_path / "certs", hosts=["127.0.0.1"])
    open_service = flags(replace(lab["server"], authority=None))
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *open_service) as weights:
        uncertified = {name: replace(one, certificate=None, key=None) for name, one in lab.items()}
        with (
            closing(WeightSubscriber(weights.address, name="arm", credentials=uncertified["robot"])) as arm,
            closing(WeightPublisher(weights.address, credentials=uncertified["server"])) as anybody,
        ):
            publish(anybody)
            until(lambda: arm.stats()["refused"] == 1, "the arm refuses the version")
            with pytest.raises(Unreachable, match="published by a publisher without a role; a lab takes weights from"):
                arm.wait(1, 0.01)
            with closing(WeightPublisher(weights.address, credentials=uncertified["learner"])) as learner:
                newest = publish(learner)
                assert arm.wait(newest, TIMEOUT_S).version == newest


def test_nobody_serves_weights_with_a_clients_certificate(tmp_path, lab):
    """Neither does a server call anything with its own."""
    posing = flags(lab["twin"])
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *posing) as weights:
        with closing(WeightSubscriber(weights.address, name="arm", credentials=lab["robot"])) as arm:
            until(lambda: arm.stats()["failures"] > 0, "the arm refuses the server")
            with pytest.raises(Unreachable, match="its certificate is a client's, not a server's"):
                arm.wait(1, 0.01)
        with pytest.raises((InputError, Unreachable)):
            WeightPublisher(weights.address, credentials=lab["server"], connect_deadline_s=1.0)


def test_tokens_have_roles_on_loopback_too(tmp_path):
    lab = make_certificates(tmp_path / "certs", hosts=["127.0.0.1"])
    tokens = {name: Credentials(token=one.token) for name, one in lab.items()}
    own = ["--credentials.token", str(tokens["server"].token)]
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *own) as weights:
        for role in ("twin", "robot", "guide"):
            with pytest.raises(InputError, match=f"the role {role} may not call Weights/Status"):
                WeightPublisher(weights.address, credentials=tokens[role])
        with closing(WeightPublisher(weights.address, credentials=tokens["monitor"])) as looker:
            looker.publish({"head": {}}, settings={})
            with pytest.raises(InputError, match=r"refused version 1: .*monitor may not call Weights/Publish"):
                looker.wait(TIMEOUT_S)
        with closing(WeightPublisher(weights.address, credentials=tokens["learner"])) as publisher:
            newest = publish(publisher)
        with closing(WeightSubscriber(weights.address, name="arm", credentials=tokens["robot"])) as arm:
            assert arm.wait(newest, TIMEOUT_S).version == newest
    assert tokens["twin"].role() is Role.TWIN
    assert Path(tokens["twin"].token).read_text().startswith("twin.")
