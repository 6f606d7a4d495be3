"""Tests the certificates of a lab's own authority: trust, renewal, refusals."""

import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from protos.errors import InputError
from services.net import Credentials
from services.net.certificates import make_certificates

SERVER_NAMES = ["weights.lab", "10.0.0.7", "localhost", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab") / "certificates"


@pytest.fixture(scope="module")
def made(folder):
    return make_certificates(folder, hosts=["weights.lab", "10.0.0.7"])


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


def test_keys_and_token_are_readable_by_their_owner_only(made, folder):
    secret = {path.name for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o600}
    public = {path.name for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) == 0o644}
    assert secret == {"authority.key", "server.key", "client.key", "token"}
    assert public == {"authority.pem", "server.pem", "client.pem"}


def test_credentials_read_what_was_made(made, folder):
    for name, credentials in zip(("server", "client"), made, strict=True):
        identity = credentials.read_identity()
        assert load_pem_private_key(identity.key, None).public_key() == certificate(folder / f"{name}.pem").public_key()
        assert credentials.read_authority() == (folder / "authority.pem").read_bytes()
        assert len(credentials.read_token()) >= 32


def test_a_second_call_keeps_authority_and_token_and_renews_the_rest(tmp_path):
    make_certificates(tmp_path, hosts=["a"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    server, _ = make_certificates(tmp_path, hosts=["b"], days=30)
    kept = {path.name for path in tmp_path.iterdir() if path.read_bytes() == before[path.name]}
    assert kept == {"authority.pem", "authority.key", "token"}
    policy(server.authority).build_server_verifier(x509.DNSName("b")).verify(certificate(server.certificate), [])


def test_another_authority_is_not_believed(made, tmp_path):
    stranger, _ = make_certificates(tmp_path, hosts=["weights.lab"])
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
    (tmp_path / "empty").write_bytes(b"")
    cases = [
        (Credentials(authority=tmp_path / "gone").read_authority, "authority file .*gone: cannot be read"),
        (Credentials(authority=tmp_path / "empty").read_authority, "not a certificate in PEM"),
        (Credentials(authority=client.key).read_authority, "not a certificate in PEM"),
        (Credentials(certificate=client.certificate, key=server.key).read_identity, "does not belong"),
        (Credentials(certificate=client.certificate, key=client.certificate).read_identity, "not a private key"),
        (Credentials(certificate=folder, key=client.key).read_identity, "certificate file .*: cannot be read"),
    ]
    for read, message in cases:
        with pytest.raises(InputError, match=message) as error:
            read()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="both or neither"):
        Credentials(key=client.key)
