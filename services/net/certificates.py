"""This module makes a lab's certificate authority and the certificates that services beyond loopback need.

    make_certificates ──► authority.pem, authority.key   signs; the key stays in this folder
                          server.pem,    server.key      to the host of the services
                          client.pem,    client.key      to every other host
                          token                          to all of them

The server's certificate names the hosts under which clients find it; clients compare. One client certificate serves a
whole lab: it says "one of us", the service does not tell one client from another by it.
"""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protos.errors import InputError
from services.net.credentials import Credentials

AUTHORITY_DAYS = 3650
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts in every server's certificate, beside those asked for."""
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(folder: Path, *, hosts: Sequence[str], days: int = 365) -> tuple[Credentials, Credentials]:
    """Writes certificates for a server at `hosts` (names or IP addresses) and for its clients; returns both.

    An authority and a token that lie in `folder` are kept, so that a second call renews certificates and hosts that
    trust the first stay as they are. Keys and the token are readable by their owner only. Raises InputError for a host
    that is no name, for `days` below 1, and for an authority that cannot be read or has expired.
    """
    if days < 1:
        raise InputError(f"days={days}: a certificate is valid for at least 1 day")
    names = [_general_name(host) for host in dict.fromkeys([*hosts, *LOCAL_HOSTS])]
    folder.mkdir(parents=True, exist_ok=True)
    authority = _take_authority(folder)
    _sign(folder, "server", authority, days, ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(names))
    _sign(folder, "client", authority, days, ExtendedKeyUsageOID.CLIENT_AUTH, None)
    if not (folder / "token").exists():
        _write(folder / "token", f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
    server, client = (
        Credentials(
            token=folder / "token",
            authority=folder / "authority.pem",
            certificate=folder / f"{name}.pem",
            key=folder / f"{name}.key",
        )
        for name in ("server", "client")
    )
    return server, client


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not host or not all(part and part.isascii() and part.replace("-", "a").isalnum() for part in host.split(".")):
        raise InputError(f"host {host!r}: write a name or an IP address, without a port")
    return x509.DNSName(host)


def _take_authority(folder: Path) -> _Authority:
    """Reads the authority in `folder`; makes one where there is none."""
    certificate_file, key_file = folder / "authority.pem", folder / "authority.key"
    if not certificate_file.exists() and not key_file.exists():
        return _make_authority(certificate_file, key_file)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"authority in {folder}: authority.pem or authority.key cannot be read ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InputError(f"authority in {folder}: authority.key does not belong to authority.pem")
    if certificate.not_valid_after_utc < datetime.now(UTC):
        raise InputError(f"authority in {folder}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}; move it away")
    return _Authority(certificate=certificate, key=key)


def _make_authority(certificate_file: Path, key_file: Path) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"TwinRL authority {secrets.token_hex(4)}")
    builder = _builder(name, name, key.public_key(), datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write(key_file, _pem(key), mode=0o600)
    _write(certificate_file, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return _Authority(certificate=certificate, key=key)


def _sign(
    folder: Path,
    name: str,
    authority: _Authority,
    days: int,
    usage: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
) -> None:
    """Writes a new key and its certificate, which ends with the authority's at the latest."""
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(datetime.now(UTC) + timedelta(days=days), authority.certificate.not_valid_after_utc)
    issuer = authority.certificate.subject
    builder = _builder(_name(f"TwinRL {name}"), issuer, key.public_key(), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(issuer_key, critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    _write(folder / f"{name}.key", _pem(key), mode=0o600)
    _write(folder / f"{name}.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces the file in one step; it is never readable by others."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    partial.replace(path)
