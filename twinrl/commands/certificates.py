"""`twinrl certificates`: what the machines of a lab need to trust each other."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tyro

from protos.errors import InputError
from protos.folders import owned
from services.net.certificates import make_certificates


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """Make an authority of the lab's own, a server's and a client's certificate, and the shared token."""

    out: Path
    """Folder to write. An authority and a token that are there are kept, and the certificates renewed."""
    host: tuple[str, ...] = ()
    """Name or IP address under which clients reach a service's machine."""
    days: int = 365
    """Days until the certificates expire."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Certificates, prog="twinrl certificates", args=arguments, config=(tyro.conf.UseAppendAction,))
    if not command.host:
        raise InputError("--host: name at least one, as in --host learner.lab --host 10.0.0.3")
    with owned(command.out, "twinrl certificates"):
        make_certificates(command.out, hosts=command.host, days=command.days)
    sys.stdout.write(summary(command))
    return 0


def summary(command: Certificates) -> str:
    """Returns a text that names the files in the folder and the machines that need each."""
    until, folder = datetime.now(UTC) + timedelta(days=command.days), command.out
    return f"""{folder}: certificates for {", ".join(command.host)}, until {until:%Y-%m-%d}

  to machines that serve (Valkey, weights, guide)   authority.pem  server.pem  server.key  token
  to every other machine (learner, actors, robot)   authority.pem  client.pem  client.key  token
  nowhere: who has it can make certificates         authority.key

A service beyond loopback:

  twinrl serve weights --store weights --listen 0.0.0.0:7070 --credentials.token {folder}/token \\
    --credentials.authority {folder}/authority.pem \\
    --credentials.certificate {folder}/server.pem --credentials.key {folder}/server.key

Its clients, and those of a replay at rediss://, in their settings:

  "credentials": {{"token": "{folder}/token", "authority": "{folder}/authority.pem",
                  "certificate": "{folder}/client.pem", "key": "{folder}/client.key"}}
"""
