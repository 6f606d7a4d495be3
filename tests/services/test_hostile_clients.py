"""Tests that hostile clients are refused with one clear line each, and the service serves the next friendly one."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from service_process import ServiceProcess, run_to_exit, until
from test_guide_schedule import SCAN, SPACE

from protos import guide_pb2 as pb
from protos.errors import InputError, TwinRLError, Unreachable
from protos.guide_pb2_grpc import GuideStub
from protos.settings import save_settings
from services.guide import GuideClient, GuideSettings
from services.net import MAX_MESSAGE_BYTES, Credentials, open_channel
from services.net.certificates import make_certificates
from services.weights import WeightPublisher, WeightSubscriber

PATIENCE_S = 60.0
REFUSED_WITHIN_S = 4.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Makes the server's and an administrator's credentials."""
    made = make_certificates(tmp_path_factory.mktemp("lab"), hosts=["127.0.0.3"])
    return made["server"], made["admin"], made


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("strangers"), hosts=["127.0.0.3"])["admin"]


def flags(credentials):
    given = {name: getattr(credentials, name) for name in ("token", "authority", "certificate", "key")}
    return [word for name, path in given.items() if path for word in (f"--credentials.{name}", str(path))]


def guide_process(folder, credentials):
    settings = save_settings(GuideSettings(space=SPACE), folder / "guide.json")
    return ServiceProcess("services.guide", folder, "--settings", str(settings), *flags(credentials))


@pytest.fixture(scope="module")
def guide(tmp_path_factory, lab):
    """Starts a guide that demands TLS, a certificate of the lab and the token."""
    with guide_process(tmp_path_factory.mktemp("guide"), lab[0]) as process:
        yield process


def refusal(server, credentials, kind=TwinRLError):
    """Returns the one line that a client with these credentials gets from the guide."""
    with closing(GuideClient(server.address, credentials=credentials, deadline_s=REFUSED_WITHIN_S)) as client:
        with pytest.raises(kind) as error:
            client.success_map()
        assert "\n" not in str(error.value)
        return str(error.value)


def serves(server, credentials):
    with closing(GuideClient(server.address, credentials=credentials, deadline_s=PATIENCE_S)) as client:
        return len(client.success_map()) == SPACE.cells


def test_those_who_do_not_belong_are_refused_in_one_line(guide, lab, strangers, tmp_path):
    client = lab[1]
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("not the lab's token\n")
    no_certificate = replace(client, certificate=None, key=None)
    foreign_certificate = replace(client, certificate=strangers.certificate, key=strangers.key)
    wrong = replace(client, token=tmp_path / "token")
    cases = [
        (replace(client, token=None), InputError, "token is missing or wrong"),
        (wrong, InputError, "token is missing or wrong"),
        (strangers, InputError, "is not signed by our authority"),
        (Credentials(), Unreachable, "may want TLS (credentials.authority)"),
        (Credentials(token=client.token), Unreachable, "may want TLS (credentials.authority)"),
        (no_certificate, Unreachable, "or a certificate of its authority"),
        (foreign_certificate, Unreachable, "or a certificate of its authority"),
    ]
    with ThreadPoolExecutor(len(cases)) as threads:  # some of them hope until their deadline
        lines = list(threads.map(lambda case: refusal(guide, case[0], case[1]), cases))
    for line, (_, _, words) in zip(lines, cases, strict=True):
        assert words in line
    assert serves(guide, client)
    log = guide.log.read_text()
    assert log.count("token is missing or wrong") == 1, "at most a line a minute"
    assert "Traceback" not in log


def test_a_service_without_tls_says_so_to_a_client_with_it(tmp_path, lab):
    with guide_process(tmp_path, Credentials(token=lab[0].token)) as server:
        assert "speaks without TLS" in refusal(server, lab[1], InputError)
        assert serves(server, Credentials(token=lab[1].token))
        assert "not encrypted, clients need the token" in server.log.read_text()


def test_tls_with_a_token_asks_for_no_certificate(tmp_path, lab):
    server, client, _ = lab
    with guide_process(tmp_path, replace(server, authority=None)) as process:
        assert serves(process, replace(client, certificate=None, key=None))
        assert "token is missing or wrong" in refusal(process, replace(client, token=None), InputError)
        assert "encrypted (TLS), clients need the token" in process.log.read_text()


def test_a_certificate_for_other_hosts_is_not_believed(tmp_path, lab):
    settings = save_settings(GuideSettings(space=SPACE), tmp_path / "guide.json")
    arguments = ["--settings", str(settings), "--listen", "127.0.0.4:0", "--port-file", str(tmp_path / "port")]
    command = [sys.executable, "-m", "services.guide", *arguments, *flags(lab[0])]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until((tmp_path / "port").exists, "the guide listens", PATIENCE_S)
        address = f"127.0.0.4:{(tmp_path / 'port').read_text().strip()}"
        client = GuideClient(address, credentials=lab[1], deadline_s=PATIENCE_S)
        with closing(client), pytest.raises(InputError, match="made for other host names than this address"):
            client.next()
        process.kill()


def test_a_message_beyond_the_limit_is_refused(guide, lab):
    cells = dict.fromkeys(range(MAX_MESSAGE_BYTES // 8), (10**6, 10**6))
    with closing(GuideClient(guide.address, credentials=lab[1], deadline_s=PATIENCE_S)) as client:
        with pytest.raises(InputError, match="larger than max"):
            client.set_success(cells)
        client.set_success(SCAN)
    assert serves(guide, lab[1])


@pytest.mark.parametrize(
    "noise",
    [b"\x80\x04\x95K\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, b""],
    ids=["pickle", "http", "http2", "nothing"],
)
def test_garbage_on_the_port_harms_nobody(guide, lab, noise):
    host, port = guide.address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(noise)
        assert serves(guide, lab[1]), "while the other one is still connected"
        connection.sendall(b"\x00" * 1024) if noise == b"" else None
        connection.settimeout(PATIENCE_S)
        received = b"first"
        while received:
            try:
                received = connection.recv(4096)
            except ConnectionResetError:
                break
    assert serves(guide, lab[1])


def test_bytes_that_are_no_message_are_refused(guide, lab):
    with open_channel(guide.address, lab[1]) as channel:
        for name in ("Next", "Report", "SetSuccess", "SuccessMap"):
            raw = channel.unary_unary(f"/twinrl.v1.Guide/{name}")
            with pytest.raises(grpc.RpcError):
                raw(b"\x80\x04\x95K\xff\xff\xff", timeout=PATIENCE_S)
        nan = pb.GuideConfiguration(region="A", cell=1, poses={"cube": pb.GuidePose(x=float("nan"))})
        for configuration, outcome in ((nan, "success"), (pb.GuideConfiguration(cell=1), "y" * 100_000)):
            with pytest.raises(grpc.RpcError) as refused:
                GuideStub(channel).Report(
                    pb.EpisodeReport(configuration=configuration, outcome=outcome, id="i"), timeout=PATIENCE_S
                )
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert len(refused.value.details()) < 200
    assert serves(guide, lab[1])


def test_weights_keep_strangers_out_as_well(tmp_path, lab, strangers):
    server, _, roles = lab
    client = roles["learner"]
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"), *flags(server)) as process:
        for credentials, words in (
            (Credentials(), "may want TLS"),
            (strangers, "not signed by our authority"),
            (replace(client, token=None), "token is missing or wrong"),
        ):
            with pytest.raises(TwinRLError, match=words):
                WeightPublisher(process.address, credentials=credentials, connect_deadline_s=REFUSED_WITHIN_S)
            follower = WeightSubscriber(process.address, name="stranger", credentials=credentials)
            until(lambda one=follower: one.stats()["failures"] > 0, "the stranger is refused")
            with pytest.raises(Unreachable, match=words):
                follower.wait(1, 0.01)
            follower.close()
        with closing(WeightPublisher(process.address, credentials=client)) as publisher:
            publisher.publish({"head": {}}, settings={})
            with closing(WeightSubscriber(process.address, name="friend", credentials=roles["robot"])) as friend:
                assert friend.wait(1, PATIENCE_S).version == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "--credentials.certificate"),
        (("token",), "--credentials.certificate"),
        (("certificate", "key"), "--credentials.token or --credentials.authority"),
        (("authority",), "needs its own"),
    ],
)
def test_beyond_loopback_only_with_tls_and_a_way_to_know_the_clients(tmp_path, lab, names, words):
    settings = save_settings(GuideSettings(space=SPACE), tmp_path / "guide.json")
    given = flags(Credentials(**{name: getattr(lab[0], name) for name in names}))
    status, message = run_to_exit("services.guide", "--settings", str(settings), "--listen", "192.0.2.7:0", *given)
    assert (status, message.count("\n")) == (2, 1)
    assert words in message


def expired(credentials, folder):
    """Signs the same certificate anew for yesterday."""
    old = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
    authority_key = load_pem_private_key((credentials.authority.parents[1] / "authority.key").read_bytes(), None)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer)
    builder = builder.public_key(old.public_key()).serial_number(1)
    builder = builder.not_valid_before(yesterday - timedelta(days=1)).not_valid_after(yesterday)
    path = folder / "expired.pem"
    path.write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return replace(credentials, certificate=path)


def test_credentials_that_cannot_work_are_named_before_anything_connects(lab, strangers, tmp_path):
    client = lab[1]
    cases = [
        (expired(client, tmp_path), "127.0.0.1:1", r"expired\.pem: valid from .* which is not now"),
        (replace(client, authority=tmp_path / "gone"), "127.0.0.1:1", "authority file .*gone: cannot be read"),
        (replace(client, key=strangers.key), "127.0.0.1:1", "does not belong to the certificate"),
        (replace(client, authority=None), "127.0.0.1:1", "a client needs credentials.authority"),
        (Credentials(token=client.token), "192.0.2.7:1", "would travel in the clear"),
    ]
    for credentials, address, words in cases:
        with pytest.raises(InputError, match=words) as error:
            GuideClient(address, credentials=credentials)
        assert "\n" not in str(error.value)
    status, message = run_to_exit(
        "services.guide",
        *("--settings", str(save_settings(GuideSettings(space=SPACE), tmp_path / "guide.json"))),
        *flags(expired(lab[0], tmp_path)),
    )
    assert (status, message.count("\n")) == (2, 1) and "which is not now" in message
