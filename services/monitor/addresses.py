"""Where a cluster is: from a command line, or from the settings files that a run gave to its processes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from protos.errors import InputError
from protos.settings import from_json
from services.monitor.reading import ClusterSettings
from services.net.credentials import Credentials
from services.replay import ReplaySettings, masked


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Which services to ask."""

    replay: tuple[str, ...] = field(default=(), repr=False)
    """unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """Holds the password of the user in the urls, so that it does not stand on the command line."""
    weights: str | None = None
    """host:port of the weights service."""
    guide: str | None = None
    """host:port of the guide."""
    credentials: Credentials = field(default_factory=Credentials)
    """For services beyond this machine."""

    def settings(self) -> ClusterSettings:
        """Raises InputError for a url or a file that will not do."""
        urls = tuple(_with_password(url, self.password_file) for url in self.replay)
        return ClusterSettings(
            replay=ReplaySettings(urls=urls, prefix=self.prefix, credentials=self.credentials) if urls else None,
            weights=self.weights,
            guide=self.guide,
            credentials=self.credentials,
        )


def _with_password(url: str, file: Path | None) -> str:
    if file is None:
        return url
    parts = urlsplit(url)
    if parts.password is not None:
        raise InputError(f"--password-file {file}: {masked(url)} has a password of its own")
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--password-file {file}: cannot be read ({error})") from error
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{host}"))


def of_run(folder: Path) -> ClusterSettings:
    """The services of a run, as its newest settings files name them; those that it has not started are left out."""
    found: dict[str, Any] = {}
    files = sorted((folder / "settings").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files:
        try:
            settings = json.loads(path.read_text())
        except (OSError, ValueError):  # half written: the next look finds it whole
            continue
        found |= {name: settings[name] for name in ("replay", "weights", "guide", "credentials") if settings.get(name)}
    if "replay" in found:
        found["replay"] = from_json(ReplaySettings, found["replay"], "replay")
    if "credentials" in found:
        found["credentials"] = from_json(Credentials, found["credentials"], "credentials")
    return ClusterSettings(**found)


def overlaid(run: ClusterSettings, given: ClusterSettings) -> ClusterSettings:
    """The run's services, with those in their place that were named on the command line."""
    if given == ClusterSettings(credentials=given.credentials):
        return run
    return ClusterSettings(
        replay=given.replay or run.replay,
        weights=given.weights or run.weights,
        guide=given.guide or run.guide,
        credentials=given.credentials,
    )
