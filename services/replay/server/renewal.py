"""This module puts renewed certificates and users into use in a server that runs.

users files, certificate ──changed──► Renewal.apply ──► ACL LOAD, CLIENT KILL of users that changed; CONFIG SET tls-…
"""

import logging
from collections.abc import Callable, Mapping

from services.net import Reread
from services.replay.connection import Client
from services.replay.server.config import ServerConfig

log = logging.getLogger(__name__)


class Renewal:
    """Remembers what a server was started with, and applies what became of it on disk."""

    def __init__(self, config: ServerConfig, write_users: Callable[[str], object]) -> None:
        """Takes a way to replace the server's own file of users. Raises InputError for files that will not do."""
        self._config, self._write_users = config, write_users
        files = [] if config.credentials.password is None else [config.credentials.password]
        self._users = Reread([*config.users, *files], config.users_text)
        self._certificate = Reread([*config.tls_files().values()], config.credentials.read_identity)
        self._applied = self._users.get(), self._certificate.get()

    def apply(self, client: Client) -> None:
        """Brings the server up to date as its administrator. Raises redis errors; the next call tries again."""
        users, certificate = self._users.get(), self._certificate.get()
        if users != self._applied[0]:
            self._write_users(users)  # for the next start
            _replace_users(client, _by_user(self._applied[0]), _by_user(users))
        if certificate != self._applied[1]:
            options = [word for name, file in self._config.tls_files().items() for word in (name, str(file))]
            client.execute_command("CONFIG SET", *options)
            log.info("replay: the renewed certificate is in use")
        self._applied = users, certificate

    @property
    def due(self) -> bool:
        """Returns whether there is something to apply."""
        return (self._users.get(), self._certificate.get()) != self._applied


def _replace_users(client: Client, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Changes the users whose lines differ and closes their connections."""
    for user in sorted(before.keys() - after.keys()):
        client.execute_command("ACL DELUSER", user)
        log.info("replay: user %s is gone", user)
    for user in sorted(user for user in after if before.get(user) != after[user]):
        client.execute_command("ACL SETUSER", user, "reset", *after[user].split()[2:])
        client.execute_command("CLIENT KILL", "USER", user)
        log.info("replay: user %s is renewed", user)


def _by_user(text: str) -> Mapping[str, str]:
    return {line.split()[1]: line for line in text.splitlines()}
