"""`twinrl certificates`: what the machines of a lab need to trust each other, and no more than their role needs."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from protos.errors import InputError
from protos.folders import owned
from services.net.authority import write_file
from services.net.certificates import SERVER, Bundle, CertificateFolder, make_certificates
from services.replay import user_of, users_text

USERS = "users.acl"
ACTIONS = {
    "add": "one more host or role",
    "renew": "a new key and certificate for those that are named",
    "revoke": "take back what one host or role was given",
    "list": "what is given out, and until when",
}


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Make an authority of the lab's own, a server's certificate and one for each role; a second time, renew them.

    More: `twinrl certificates add | renew | revoke | list --help`.
    """

    out: Path
    """Folder to write, for one run. An authority that is there is kept."""
    host: tuple[str, ...] = ()
    """Name or IP address under which clients reach a service's machine."""
    prefix: str | None = None
    """First part of the run's keys in the replay; by default twinrl, and later what the folder was made for."""
    days: int = 365
    """Days until the certificates expire."""


@dataclass(frozen=True, kw_only=True)
class Add:
    """Make a bundle for one more host or role."""

    name: tyro.conf.Positional[str]
    """Name of the bundle and its folder, as in robot-2."""
    out: Path
    """Folder of the lab's certificates."""
    role: str
    """admin, learner, twin, robot, guide, monitor, console; or server."""
    host: tuple[str, ...] = ()
    """Name or IP address under which clients reach this server."""
    days: int = 365
    """Days until the certificate expires."""


@dataclass(frozen=True, kw_only=True)
class Renew:
    """Make new keys and certificates; roles, passwords and hosts stay."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names of bundles."""
    out: Path
    """Folder of the lab's certificates."""
    days: int = 365
    """Days until the certificates expire."""


@dataclass(frozen=True, kw_only=True)
class Revoke:
    """Take back what hosts or roles were given: certificates and passwords."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names of bundles."""
    out: Path
    """Folder of the lab's certificates."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show what is given out, and until when."""

    out: Path
    """Folder of the lab's certificates."""


def main(arguments: Sequence[str]) -> int:
    action = arguments[0] if arguments and arguments[0] in ACTIONS else None
    kinds: Mapping[str | None, tuple[type[Any], Callable[[Any], str]]] = {
        None: (Certificates, _make),
        "add": (Add, _add),
        "renew": (Renew, _renew),
        "revoke": (Revoke, _revoke),
        "list": (Show, _show),
    }
    kind, run = kinds[action]
    prog = " ".join(["twinrl certificates", *([] if action is None else [action])])
    given = arguments if action is None else arguments[1:]
    command: Any = tyro.cli(kind, prog=prog, args=given, config=(tyro.conf.UseAppendAction,))
    if action is not None and not command.out.is_dir():
        raise InputError(
            f"--out {command.out}: there is none; `twinrl certificates --out {command.out} --host …` first"
        )
    with owned(command.out, "twinrl certificates"):
        text = run(command)
        if action != "list":
            _write_users(command.out)
    sys.stdout.write(text)
    return 0


def _write_users(out: Path) -> None:
    lab = CertificateFolder(out)
    write_file(out / USERS, users_text(lab.prefix, lab.passwords()).encode(), mode=0o600)


def _make(command: Certificates) -> str:
    if not command.host:
        raise InputError("--host: name at least one, as in --host learner.lab --host 10.0.0.3")
    make_certificates(command.out, hosts=command.host, days=command.days, prefix=command.prefix)
    return summary(CertificateFolder(command.out))


def _add(command: Add) -> str:
    CertificateFolder(command.out).add(command.name, command.role, hosts=command.host, days=command.days)
    return f"{_after(command.out)}  {command.out / command.name}/   to its own machine\n"


def _renew(command: Renew) -> str:
    lab = CertificateFolder(command.out)
    for name in command.names:
        lab.renew(name, days=command.days)
    folders = "".join(f"  {command.out / name}/   over the one on its machine\n" for name in command.names)
    return f"Copy; what runs reads them within a second:\n\n{folders}"


def _revoke(command: Revoke) -> str:
    lab = CertificateFolder(command.out)
    for name in command.names:
        lab.revoke(name)
    return _after(command.out)


def _after(out: Path) -> str:
    servers = [one.name for one in CertificateFolder(out).bundles if one.kind == SERVER]
    lists = "".join(f"  {out / name / 'revoked.pem'}   to that server's machine\n" for name in servers)
    return f"Copy; what runs reads them within a second:\n\n  {out / USERS}   to the machines of the replay\n{lists}"


def _show(command: Show) -> str:
    return "".join(_line(one) for one in CertificateFolder(command.out).bundles)


def _line(bundle: Bundle) -> str:
    days = (bundle.until_unix_s - time.time()) / 86_400
    return f"{bundle.name:<16}{bundle.kind:<10}{days:5.0f} days  {', '.join(bundle.hosts)}\n"


def summary(lab: CertificateFolder) -> str:
    """Returns a text that names the folders and the machines that need each."""
    out = lab.folder
    roles = [one for one in lab.bundles if one.role is not None]
    folders = "".join(
        f"  {out / one.name}/   user of the replay: {user_of(lab.prefix, one.role)}\n" for one in roles if one.role
    )
    return f"""{out}: certificates of the run {lab.prefix}, for {", ".join(_hosts(lab))}

  to machines that serve (replay, weights, guide)   {out / SERVER}/, and {out / USERS} to those of the replay
  to each machine, the one folder of its role:
{folders}  nowhere: who has them can be anybody              authority.key, token, issued.json

A service beyond loopback:

  twinrl serve weights --store weights --listen 0.0.0.0:7070 --credentials.folder {out / SERVER}

Its clients, and those of a replay at rediss://, in their settings, each with its own folder:

  "credentials": {{"folder": "{out}/learner"}}
"""


def _hosts(lab: CertificateFolder) -> list[str]:
    return sorted({host for one in lab.bundles for host in one.hosts})
