"""Tests the certificates of a lab's own authority: trust, renewal, refusals."""

import hashlib
import ssl
import stat
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from protos.errors import InputError
from services.net import Credentials, Role
from services.net.certificates import CertificateFolder, make_certificates
from services.net.credentials import holder_of
from services.replay import ReplaySettings

ROLES = {"admin", "learner", "twin", "robot", "guide", "monitor", "console"}
SERVER_NAMES = ["weights.lab", "10.0.0.7", "localhost", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab") / "certificates"


@pytest.fixture(scope="module")
def bundles(folder):
    return make_certificates(folder, hosts=["weights.lab", "10.0.0.7"])


@pytest.fixture(scope="module")
def made(bundles):
    """Gives the credentials of a server and of a client."""
    return bundles["server"], bundles["twin"]


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def policy(authority):
    return PolicyBuilder().store(Store([certificate(authority)]))


def test_the_chains_verify(made):
    server, _ = made
    for name in (x509.DNSName("weights.lab"), x509.DNSName("localhost")):
        assert (
            len(policy(server.authority).build_server_verifier(name).verify(certificate(server.certificate), [])) == 2
        )
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)]
    for context, credentials in zip(contexts, made, strict=True):
        context.load_cert_chain(credentials.certificate, credentials.key)
        context.load_verify_locations(credentials.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    handshake(*contexts, name="10.0.0.7")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.lab"):
        handshake(*contexts, name="other.lab")


def handshake(server_context, client_context, name):
    """Makes a TLS connection in memory, both sides checking each other."""
    pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(pipes[0], pipes[1], server_side=True)
    client = client_context.wrap_bio(pipes[1], pipes[0], server_hostname=name)
    open_sides = [client, server]
    for _ in range(10):
        for side in list(open_sides):
            try:
                side.do_handshake()
                open_sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert open_sides == []


def test_names_uses_and_lifetimes(made):
    server, client = (certificate(one.certificate) for one in made)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == SERVER_NAMES
    usage = x509.ExtendedKeyUsage
    assert list(server.extensions.get_extension_for_class(usage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert list(client.extensions.get_extension_for_class(usage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for one in (server, client):
        assert 365 <= (one.not_valid_after_utc - one.not_valid_before_utc).days < 366
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_names_the_role_and_a_servers_none(bundles):
    named = {name: holder_of(one.certificate.read_bytes()).role for name, one in bundles.items()}
    assert named == {"server": None} | {name: Role(name) for name in ROLES}
    assert {name: one.role() for name, one in bundles.items()} == named


def test_secrets_are_readable_by_their_owner_only(bundles, folder):
    assert set(bundles) == {"server", *ROLES}
    modes = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.*")}
    assert {name for name, mode in modes.items() if mode == 0o644} == {
        "authority.pem",
        "server/revoked.pem",
        *(f"{name}/{file}.pem" for name in bundles for file in ("authority", "certificate")),
    }
    secret = [
        folder / "token",
        *(folder / name / "token" for name in bundles),
        *(folder / name / "password" for name in ROLES),
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert {mode for name, mode in modes.items() if name.endswith((".key", "key.pem", ".json"))} == {0o600}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("secret", ["token", "key", "password"])
def test_a_secret_that_others_can_read_is_refused(bundles, tmp_path, secret, mode):
    copy = tmp_path / secret
    copy.write_bytes(getattr(bundles["twin"], secret).read_bytes())
    copy.chmod(mode)
    credentials = replace(bundles["twin"], **{secret: copy})
    reads = {"token": credentials.read_token, "key": credentials.read_identity}
    reads["password"] = lambda: ReplaySettings(urls=("rediss://rl1:1",), credentials=credentials).login(0)
    with pytest.raises(
        InputError, match=rf"{secret} file .*: its mode is {mode:04o}, so others can read it; chmod 600"
    ):
        reads[secret]()
    copy.chmod(0o400)
    reads[secret]()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ("${TOKEN}0123456789", "a placeholder"),
        ("CHANGE_ME_0123456789", "CHANGE_ME"),
    ],
)
def test_a_secret_that_was_forgotten_is_refused(tmp_path, text, words):
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text(text)
    with pytest.raises(InputError, match=words):
        Credentials(token=tmp_path / "secret").read_token()
    with pytest.raises(InputError, match=words):
        ReplaySettings(urls=("redis://rl1:1",), credentials=Credentials(password=tmp_path / "secret")).login(0)


def test_credentials_read_what_was_made(bundles, folder):
    for name, credentials in bundles.items():
        assert credentials == replace(Credentials(folder=folder / name), folder=None)
        key = load_pem_private_key(credentials.read_identity().key, None)
        assert key.public_key() == certificate(folder / name / "certificate.pem").public_key()
        assert credentials.read_authority() == (folder / "authority.pem").read_bytes()
        assert len(credentials.read_token()) >= 32
    with pytest.raises(InputError, match="there is none; copy the bundle"):
        Credentials(folder=folder / "nobody")


def test_tokens_of_roles_differ_and_name_the_role(bundles):
    tokens = {name: one.read_token() for name, one in bundles.items()}
    assert len(set(tokens.values())) == len(tokens)
    for name in ROLES:
        assert Credentials(token=bundles[name].token).role() is Role(name)
    assert Credentials(token=bundles["server"].token).role() is None


def test_a_second_call_keeps_authority_and_passwords_and_renews_the_rest(tmp_path):
    make_certificates(tmp_path, hosts=["a"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    server = make_certificates(tmp_path, hosts=["b"], days=30)["server"]
    renewed = {path.name for path in before if path.read_bytes() != before[path]}
    assert renewed == {"certificate.pem", "key.pem", "issued.json", "revoked.pem"}
    policy(server.authority).build_server_verifier(x509.DNSName("b")).verify(certificate(server.certificate), [])


def test_what_is_revoked_is_on_the_list_of_the_servers(tmp_path):
    server = make_certificates(tmp_path, hosts=["a"])["server"]
    lab = CertificateFolder(tmp_path)
    twin = certificate(lab.credentials("twin").certificate).serial_number
    assert server.read_revoked() == frozenset()
    lab.revoke("twin")
    assert server.read_revoked() == {twin}
    assert not (tmp_path / "twin").exists()
    lab.add("twin", "twin", days=1)
    assert CertificateFolder(tmp_path).passwords()[Role.TWIN] == [
        hashlib.sha256((tmp_path / "twin" / "password").read_text().strip().encode()).hexdigest()
    ]
    assert server.read_revoked() == {twin}
    forged = make_certificates(tmp_path / "stranger", hosts=["a"])["server"].revoked
    with pytest.raises(InputError, match="not signed by"):
        replace(server, revoked=forged).read_revoked()
    with pytest.raises(InputError, match="is for the run 'twinrl'; use a folder for each run"):
        CertificateFolder(tmp_path, prefix="another")


def test_another_authority_is_not_believed(made, tmp_path):
    stranger = make_certificates(tmp_path, hosts=["weights.lab"])["server"]
    verifier = policy(made[0].authority).build_server_verifier(x509.DNSName("weights.lab"))
    with pytest.raises(VerificationError):
        verifier.verify(certificate(stranger.certificate), [])


@pytest.mark.parametrize("host", ["", "two words", "weights:7070", "a..b", "käse"])
def test_hosts_that_are_none_are_refused_before_anything_is_written(tmp_path, host):
    with pytest.raises(InputError, match="without a port"):
        make_certificates(tmp_path / "none", hosts=[host])
    assert not (tmp_path / "none").exists()


def test_an_authority_that_cannot_sign_is_refused(tmp_path):
    make_certificates(tmp_path / "a", hosts=[])
    make_certificates(tmp_path / "b", hosts=[])
    (tmp_path / "a" / "authority.key").write_bytes((tmp_path / "b" / "authority.key").read_bytes())
    with pytest.raises(InputError, match="does not belong"):
        make_certificates(tmp_path / "a", hosts=[])
    (tmp_path / "b" / "authority.pem").write_text("nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        make_certificates(tmp_path / "b", hosts=[])
    with pytest.raises(InputError, match="days=0"):
        make_certificates(tmp_path / "c", hosts=[], days=0)


def test_files_that_do_not_fit_are_named_in_one_line(made, folder, tmp_path):
    server, client = made
    (tmp_path / "empty").touch(mode=0o600)
    cases = [
        (Credentials(authority=tmp_path / "gone").read_authority, "authority file .*gone: cannot be read"),
        (Credentials(authority=tmp_path / "empty").read_authority, "not a certificate in PEM"),
        (Credentials(authority=client.key).read_authority, "not a certificate in PEM"),
        (Credentials(certificate=client.certificate, key=server.key).read_identity, "does not belong"),
        (Credentials(certificate=client.certificate, key=tmp_path / "empty").read_identity, "not a private key"),
        (Credentials(certificate=folder, key=client.key).read_identity, "certificate file .*: cannot be read"),
    ]
    for read, message in cases:
        with pytest.raises(InputError, match=message) as error:
            read()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="both or neither"):
        Credentials(key=client.key)
