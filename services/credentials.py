"""Who may talk to whom: the files that let a process reach services beyond its own machine, and serve beyond it.

    token         one line that every gRPC client sends with every call; all of a lab share it
    authority     certificate of the lab's own authority: who is not certified by it is not believed
    certificate   of this process, signed by the authority; `key` is its private key

    client with authority                 encrypted, the server must be certified
    client with certificate and key too   mutual: the server sees who it is
    server with certificate and key       encrypted; with authority too it refuses clients that are not certified

The same certificates serve gRPC and Redis (`rediss://`). On loopback none of this is needed.
"""

from dataclasses import dataclass
from pathlib import Path

from protos.errors import InputError

MIN_TOKEN_CHARACTERS = 16


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


LOOPBACK = Credentials()
"""Nothing: for services of the same machine."""
