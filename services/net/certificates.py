"""This module keeps the certificates of a lab in one folder: an authority, and a bundle for each host or role.

    certs/authority.pem, authority.key, token     the administrator's; authority.key and token stay here
    certs/issued.json                             what was given out and what was revoked
    certs/<name>/  authority.pem  certificate.pem  key.pem  token  revoked.pem      one bundle, one folder to copy:
                   password                       of its role's user in the replay     `Credentials(folder=…)` reads it

One folder serves one run, named by the prefix of its keys in the replay: who trusts its authority trusts nobody of
another run. A bundle's password is its own, so that it can be taken back alone.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from protos.errors import InputError
from protos.files import read_json
from protos.folders import check_name
from protos.settings import from_json
from services.net.authority import Authority, general_name, write_file
from services.net.credentials import Credentials, role_token
from services.net.roles import Role, role_named
from services.net.secret_files import read_secret

SERVER = "server"
"""Kind of a bundle that serves, in place of a role; and the name of the first."""
_RESERVED = {"authority.pem", "authority.key", "token", "issued.json", "users.acl"}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle is what one host or role was given."""

    name: str
    kind: str
    """A role, or "server"."""
    hosts: tuple[str, ...] = ()
    serial: str = ""
    """Number of its certificate, in hexadecimal digits."""
    until_unix_s: float = 0.0
    password_sha256: str = ""
    """Hash of its password for the replay; empty for servers."""
    revoked_unix_s: float = 0.0
    """0 while it is good."""

    @property
    def role(self) -> Role | None:
        return None if self.kind == SERVER else role_named(self.kind)


@dataclass(frozen=True, kw_only=True)
class _Issued:
    prefix: str
    bundles: tuple[Bundle, ...] = ()
    """Good ones and revoked ones, oldest first."""


class CertificateFolder:
    """Adds, renews and revokes the bundles of a lab. Raises InputError for a folder that is none or is damaged."""

    def __init__(self, folder: Path, *, prefix: str | None = None) -> None:
        """Opens a folder, or makes one with an authority and a token for the run with this `prefix` of keys."""
        self.folder = folder
        self._file = folder / "issued.json"
        if self._file.exists():
            self._issued = from_json(_Issued, read_json(self._file, what="list of certificates"), self._file.name)
        else:
            self._issued = _Issued(prefix=prefix or "twinrl")
        if prefix not in (None, self.prefix):
            raise InputError(f"prefix {prefix!r}: {folder} is for the run {self.prefix!r}; use a folder for each run")
        folder.mkdir(parents=True, exist_ok=True)
        self._authority = Authority.take(folder)
        if not (folder / "token").exists():
            write_file(folder / "token", f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)

    @property
    def prefix(self) -> str:
        """Returns the prefix of the run's keys in the replay."""
        return self._issued.prefix

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """Returns the bundles that are good, by name."""
        good = (one for one in self._issued.bundles if not one.revoked_unix_s)
        return tuple(sorted(good, key=lambda one: one.name))

    def add(self, name: str, kind: str, *, hosts: Sequence[str] = (), days: int) -> Credentials:
        """Makes the bundle `name` of a role, or of a server that clients reach at `hosts`; returns its files.

        Raises InputError for a name that is taken, a role that is none, and hosts of anything but a server.
        """
        check_name("name of a bundle", name)
        if name in _RESERVED or any(one.name == name for one in self.bundles):
            raise InputError(f"name of a bundle {name!r}: taken; renew or revoke that one, or choose another name")
        if kind != SERVER and hosts:
            raise InputError(f"hosts {', '.join(hosts)}: only a server's certificate names hosts")
        bundle = Bundle(name=name, kind=kind, hosts=tuple(hosts))
        if bundle.role is not None:
            password = secrets.token_urlsafe(24)
            bundle = replace(bundle, password_sha256=hashlib.sha256(password.encode()).hexdigest())
            (self.folder / name).mkdir(exist_ok=True)
            write_file(self.folder / name / "password", f"{password}\n".encode(), mode=0o600)
        return self._give(bundle, days)

    def renew(self, name: str, *, days: int, hosts: Sequence[str] = ()) -> Credentials:
        """Makes a new key and certificate; role, password and hosts stay, unless a server gets other hosts."""
        bundle = self._find(name)
        return self._give(replace(bundle, hosts=tuple(hosts) or bundle.hosts), days)

    def revoke(self, name: str) -> None:
        """Takes a bundle back: its certificate goes on the list that servers read, its password is no user's."""
        gone = replace(self._find(name), revoked_unix_s=datetime.now(UTC).timestamp())
        self._keep(gone)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def credentials(self, name: str) -> Credentials:
        """Returns the files of a bundle. Raises InputError for a name that there is not."""
        self._find(name)
        return replace(Credentials(folder=self.folder / name), folder=None)

    def passwords(self) -> dict[Role, list[str]]:
        """Returns the sha256 of every good password, by role."""
        found: dict[Role, list[str]] = {role: [] for role in Role}
        for one in self.bundles:
            if one.role is not None:
                found[one.role].append(one.password_sha256)
        return found

    def _give(self, bundle: Bundle, days: int) -> Credentials:
        for host in bundle.hosts:
            general_name(host)
        folder, role = self.folder / bundle.name, bundle.role
        signed = self._authority.sign(bundle.name, role=role, hosts=bundle.hosts, days=days)
        folder.mkdir(exist_ok=True)
        own = read_secret("token", self.folder / "token")
        write_file(folder / "authority.pem", self._authority.pem, mode=0o644)
        write_file(folder / "token", f"{own if role is None else role_token(own, role)}\n".encode(), mode=0o600)
        write_file(folder / "key.pem", signed.key, mode=0o600)
        write_file(folder / "certificate.pem", signed.certificate, mode=0o644)
        self._keep(replace(bundle, serial=f"{signed.serial:x}", until_unix_s=signed.until.timestamp()))
        return self.credentials(bundle.name)

    def _find(self, name: str) -> Bundle:
        found = next((one for one in self.bundles if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.bundles) or "none yet"
            raise InputError(f"bundle {name!r}: there is none in {self.folder} (there are {known})")
        return found

    def _keep(self, bundle: Bundle) -> None:
        others = [one for one in self._issued.bundles if one.name != bundle.name or one.revoked_unix_s]
        self._issued = replace(self._issued, bundles=(*others, bundle))
        write_file(self._file, json.dumps(asdict(self._issued), indent=2).encode() + b"\n", mode=0o600)
        gone = {
            int(one.serial, 16): datetime.fromtimestamp(one.revoked_unix_s, UTC)
            for one in self._issued.bundles
            if one.revoked_unix_s
        }
        listed = self._authority.revoked(gone)
        for one in self.bundles:
            if one.kind == SERVER:
                write_file(self.folder / one.name / "revoked.pem", listed, mode=0o644)


def make_certificates(
    folder: Path, *, hosts: Sequence[str], days: int = 365, prefix: str | None = None
) -> dict[str, Credentials]:
    """Makes a bundle for a server at `hosts` and one for each role, renews those that are there; returns all by name.

    An authority and a token that lie in `folder` are kept, so that hosts that trust the first stay as they are. Raises
    InputError for a host that is no name, for `days` below 1, and for an authority that cannot be read or has expired.
    """
    if days < 1:
        raise InputError(f"days={days}: a certificate is valid for at least 1 day")
    for host in hosts:
        general_name(host)
    lab = CertificateFolder(folder, prefix=prefix)
    there = {one.name for one in lab.bundles}
    for name in (SERVER, *(role.value for role in Role)):
        of_server = hosts if name == SERVER else ()
        if name in there:
            lab.renew(name, days=days, hosts=of_server)
        else:
            lab.add(name, name, hosts=of_server, days=days)
    return {one.name: lab.credentials(one.name) for one in lab.bundles}
