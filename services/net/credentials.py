"""Who may talk to whom: the files that let a process reach services beyond its own machine, and serve beyond it.

    token         one line that every gRPC client sends with every call; all of a lab share it
    authority     certificate of the lab's own authority: who is not certified by it is not believed
    certificate   of this process, signed by the authority; `key` is its private key

    client with authority                 encrypted, the server must be certified
    client with certificate and key too   mutual: the server sees who it is
    server with certificate and key       encrypted; with authority too it refuses clients that are not certified

The same certificates serve gRPC and Redis (`rediss://`); `services.net.certificates` makes them. On loopback
none of this is needed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from protos.errors import InputError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class Identity:
    """PEM of a process's own certificate and its private key."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Paths of PEM files and of the token; all empty on loopback."""

    token: Path | None = None
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InputError(f"certificate={self.certificate}, key={self.key}: give both or neither")

    def read_token(self) -> str | None:
        """The shared token, None without a file. Raises InputError for a weak or unreadable one."""
        if self.token is None:
            return None
        try:
            token = self.token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"token file {self.token}: cannot be read ({error})") from error
        if not (len(token) >= MIN_TOKEN_CHARACTERS and token.isascii() and token.isprintable()):
            raise InputError(
                f"token file {self.token}: needs one line of at least {MIN_TOKEN_CHARACTERS} printable characters"
            )
        return token

    def read_authority(self) -> bytes | None:
        """PEM of the authority's certificate, None without a file. Raises InputError for a bad or expired one."""
        if self.authority is None:
            return None
        pem = _read("authority", self.authority)
        _check_certificates("authority", self.authority, pem)
        return pem

    def read_identity(self) -> Identity | None:
        """Certificate and key, None without files.

        Raises InputError for files that cannot be read, an expired certificate, and a key of another certificate.
        """
        if self.certificate is None or self.key is None:
            return None
        identity = Identity(certificate=_read("certificate", self.certificate), key=_read("key", self.key))
        leaf = _check_certificates("certificate", self.certificate, identity.certificate)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(identity.key, password=None)
        except (ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise InputError(f"key file {self.key}: not a private key in PEM without a password") from error
        if key.public_key() != leaf.public_key():
            raise InputError(f"key file {self.key}: does not belong to the certificate in {self.certificate}")
        return identity


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} file {path}: cannot be read ({error})") from error


def _check_certificates(what: str, path: Path, pem: bytes) -> "Certificate":
    """The first certificate of the file. Raises InputError when there is none, or one is not valid now."""
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


LOOPBACK = Credentials()
"""Nothing: for services of the same machine."""
