"""This module holds the credentials with which processes reach services beyond their machine, and serve beyond it.

    token         one line that a gRPC client sends with every call: the service's own, or one of a role made from it
    authority     certificate of the lab's own authority: a peer that it has not certified is refused
    certificate   of this process, signed by the authority; `key` is its private key

    client with authority                 encrypted, the server must be certified
    client with certificate and key too   mutual: the server checks the client's certificate
    server with certificate and key       encrypted; with authority too it refuses clients that are not certified

The same certificates serve gRPC and Redis (`rediss://`); `services.net.certificates` makes them. On loopback none of
this is needed.

Clients put the token into the metadata of every call. A process has a role (`services.net.roles`): its certificate
names it, and its token may.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from protos.errors import InputError
from services.net.roles import Role
from services.net.secret_files import read_secret, read_secret_bytes

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MIN_TOKEN_CHARACTERS = 16
TOKEN_KEY = "twinrl-token"
_IN_FOLDER = {
    "token": "token",
    "authority": "authority.pem",
    "certificate": "certificate.pem",
    "key": "key.pem",
    "password": "password",
    "revoked": "revoked.pem",
}
"""File of a bundle by the name of its setting."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An identity is a process's own certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Credentials are the paths of PEM files, of the token and of a password; all empty on loopback."""

    folder: Path | None = None
    """A bundle of `twinrl certificates`, whose files stand in for those that are not named below."""
    token: Path | None = None
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    password: Path | None = None
    """Holds the password of the replay's user."""
    revoked: Path | None = None
    """List of certificates that the authority has taken back; servers read it."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            self._fill(self.folder)
        if (self.certificate is None) != (self.key is None):
            raise InputError(f"certificate={self.certificate}, key={self.key}: give both or neither")

    def _fill(self, folder: Path) -> None:
        """Takes from the folder what is not named otherwise."""
        if not folder.is_dir():
            raise InputError(
                f"credentials folder {folder}: there is none; copy the bundle of `twinrl certificates` there"
            )
        for name, file in _IN_FOLDER.items():
            if getattr(self, name) is None and (folder / file).exists():
                object.__setattr__(self, name, folder / file)

    def read_token(self) -> str | None:
        """Returns the token, None without a file. Raises InputError for a weak or unreadable one."""
        if self.token is None:
            return None
        token = read_secret("token", self.token)
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise InputError(f"token file {self.token}: needs at least {MIN_TOKEN_CHARACTERS} characters")
        return token

    def role(self) -> Role | None:
        """Returns the role that the certificate names, else the token; None where neither does."""
        identity, token = self.read_identity(), self.read_token()
        if identity is not None:
            return holder_of(identity.certificate).role
        return None if token is None else _named(token.partition(".")[0])

    def read_authority(self) -> bytes | None:
        """Returns the authority's certificate in PEM, or None. Raises InputError for a bad or expired one."""
        if self.authority is None:
            return None
        pem = _read("authority", self.authority)
        _check_certificates("authority", self.authority, pem)
        return pem

    def read_identity(self) -> Identity | None:
        """Returns certificate and key, None without files.

        Raises InputError for files that cannot be read, an expired certificate, and a key of another certificate.
        """
        if self.certificate is None or self.key is None:
            return None
        identity = Identity(certificate=_read("certificate", self.certificate), key=read_secret_bytes("key", self.key))
        leaf = _check_certificates("certificate", self.certificate, identity.certificate)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(identity.key, password=None)
        except (ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise InputError(f"key file {self.key}: not a private key in PEM without a password") from error
        if key.public_key() != leaf.public_key():
            raise InputError(f"key file {self.key}: does not belong to the certificate in {self.certificate}")
        return identity

    def read_revoked(self) -> frozenset[int]:
        """Returns the numbers of revoked certificates. Raises InputError for a list that is not the authority's."""
        authority = self.read_authority()
        if self.revoked is None or authority is None:
            return frozenset()
        from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_crl

        try:
            listed = load_pem_x509_crl(_read("revocation list", self.revoked))
        except ValueError as error:
            raise InputError(f"revocation list {self.revoked}: not one in PEM") from error
        key: Any = load_pem_x509_certificate(authority).public_key()
        if not listed.is_signature_valid(key):
            raise InputError(f"revocation list {self.revoked}: not signed by {self.authority}")
        return frozenset(one.serial_number for one in listed)


LOOPBACK = Credentials()
"""Empty credentials, for services of the same machine."""


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} file {path}: cannot be read ({error})") from error


def _check_certificates(what: str, path: Path, pem: bytes) -> "Certificate":
    """Returns the first certificate of the file. Raises InputError when there is none, or one is not valid now."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        certificates = load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InputError(f"{what} file {path}: not a certificate in PEM") from error
    now = datetime.now(UTC)
    for one in certificates:
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            valid = f"from {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}"
            raise InputError(f"{what} file {path}: valid {valid}, which is not now; make a new one")
    return certificates[0]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A holder is whom a certificate was made for."""

    role: Role | None
    """Its role; None for a server, and for certificates of others."""
    serial: int
    until: datetime


@lru_cache(maxsize=256)
def holder_of(pem: bytes) -> Holder:
    """Returns whom a certificate in PEM was made for; its role stands in the subject (OU)."""
    from cryptography.x509 import load_pem_x509_certificate
    from cryptography.x509.oid import NameOID

    certificate = load_pem_x509_certificate(pem)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    role = _named(str(units[0].value)) if len(units) == 1 else None
    return Holder(role=role, serial=certificate.serial_number, until=certificate.not_valid_after_utc)


def _named(name: str) -> Role | None:
    return Role(name) if name in {one.value for one in Role} else None


def role_token(secret: str, role: Role) -> str:
    """Makes the token of a role: only who has the service's own can."""
    return f"{role.value}.{hmac.digest(secret.encode(), role.value.encode(), 'sha256').hex()}"


@dataclass
class CallDetails(grpc.ClientCallDetails):
    """Call details describe one call of a client in a form that an interceptor may change."""

    method: str
    timeout: float | None
    metadata: list[tuple[str, str]]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any

    @classmethod
    def of(cls, details: Any) -> "CallDetails":
        """Copies gRPC's own details, which cannot be changed."""
        return cls(
            method=details.method,
            timeout=details.timeout,
            metadata=list(details.metadata or ()),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class TokenCarrier(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of every call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def _call(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        carried = CallDetails.of(details)
        carried.metadata.append((TOKEN_KEY, self._token))
        return continuation(carried, request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call
