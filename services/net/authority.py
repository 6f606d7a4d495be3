"""This module is a lab's certificate authority: it makes its own certificate, signs others, and lists revoked ones.

    Authority.take(folder) ──► authority.pem, authority.key    signs; the key stays in this folder
         .sign(…)          ──► a certificate and its key       of a server, for host names, or of a client with a role
         .revoked(…)       ──► the list that servers read      a PEM "X509 CRL" of serial numbers

A client's certificate says its role (OU of the subject) and for what it was made (CN); a server's names the hosts under
which clients find it, and no role: it may serve and call nothing.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
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
from services.net.roles import Role
from services.net.secret_files import read_secret_bytes

AUTHORITY_DAYS = 3650
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
"""Hosts in every server's certificate, beside those asked for."""
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signed certificate with its key, both in PEM."""

    certificate: bytes
    key: bytes
    serial: int
    until: datetime


@dataclass(frozen=True, kw_only=True)
class Authority:
    """An authority signs with its own key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def take(cls, folder: Path) -> "Authority":
        """Reads the authority in `folder`; makes one where there is none. Raises InputError for a damaged one."""
        certificate_file, key_file = folder / "authority.pem", folder / "authority.key"
        if not certificate_file.exists() and not key_file.exists():
            return _make_authority(certificate_file, key_file)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = load_pem_private_key(read_secret_bytes("authority key", key_file), password=None)
        except (OSError, ValueError, TypeError) as error:
            message = f"authority in {folder}: authority.pem or authority.key cannot be read ({error})"
            raise InputError(message) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise InputError(f"authority in {folder}: authority.key does not belong to authority.pem")
        if certificate.not_valid_after_utc < datetime.now(UTC):
            raise InputError(
                f"authority in {folder}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}; move it away"
            )
        return cls(certificate=certificate, key=key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def sign(self, name: str, *, role: Role | None, hosts: Sequence[str], days: int) -> Signed:
        """Makes a key and its certificate, of a client with a role or of a server at `hosts`.

        It ends with the authority's at the latest. Raises InputError for `days` below 1 and a host that is no name.
        """
        if days < 1:
            raise InputError(f"days={days}: a certificate is valid for at least 1 day")
        names = [general_name(host) for host in dict.fromkeys([*hosts, *LOCAL_HOSTS])]
        usage = ExtendedKeyUsageOID.SERVER_AUTH if role is None else ExtendedKeyUsageOID.CLIENT_AUTH
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(datetime.now(UTC) + timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = _builder(_name(f"TwinRL {name}", role), self.certificate.subject, key.public_key(), until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer_key, critical=False)
        if role is None:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = certificate.public_bytes(Encoding.PEM)
        return Signed(certificate=pem, key=_pem(key), serial=certificate.serial_number, until=until)

    def revoked(self, serials: Mapping[int, datetime]) -> bytes:
        """Signs the list of revoked certificates, in PEM: serial numbers and when they were revoked."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder(issuer_name=self.certificate.subject)
        builder = builder.last_update(now - _CLOCK_SKEW).next_update(self.certificate.not_valid_after_utc)
        for serial, when in serials.items():
            one = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=when)
            builder = builder.add_revoked_certificate(one.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def general_name(host: str) -> x509.GeneralName:
    """Returns a host as certificates name it. Raises InputError for what is neither a name nor an IP address."""
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if not host or not all(part and part.isascii() and part.replace("-", "a").isalnum() for part in host.split(".")):
        raise InputError(f"host {host!r}: write a name or an IP address, without a port")
    return x509.DNSName(host)


def _make_authority(certificate_file: Path, key_file: Path) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"TwinRL authority {secrets.token_hex(4)}")
    builder = _builder(name, name, key.public_key(), datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    write_file(key_file, _pem(key), mode=0o600)
    write_file(certificate_file, certificate.public_bytes(Encoding.PEM), mode=0o644)
    return Authority(certificate=certificate, key=key)


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


def _name(common_name: str, role: Role | None = None) -> x509.Name:
    unit = [] if role is None else [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value)]
    return x509.Name([*unit, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces the file in one step; it is never readable by others."""
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    partial.replace(path)
