"""Every role tries every call of the services and every command of the replay; what it may do is said here, again."""

import itertools
from contextlib import ExitStack, closing

import grpc
import pytest
import redis
from service_process import ServiceProcess
from test_guide_schedule import SPACE

from protos import guide_pb2, weights_pb2
from protos.settings import save_settings
from services.guide import GuideSettings
from services.net import Credentials, Role, open_channel
from services.net.certificates import CertificateFolder, make_certificates
from services.replay import EmbeddedServer, ServerConfig, user_of, users_text
from services.weights import WeightPublisher

TIMEOUT_S = 30.0
ROLES = ("admin", "learner", "twin", "robot", "guide", "monitor", "console")

MAY_CALL = {
    "Weights/Status": {"admin", "learner", "monitor", "console"},
    "Weights/Lead": {"learner"},
    "Weights/Publish": {"learner"},
    "Weights/Watch": {"admin", "twin", "robot"},
    "Weights/Pull": {"admin", "twin", "robot"},
    "Weights/Report": {"admin", "twin", "robot"},
    "Guide/Next": {"admin", "robot"},
    "Guide/NextScan": {"admin", "guide"},
    "Guide/Report": {"admin", "robot", "guide"},
    "Guide/SetSuccess": {"admin", "guide"},
    "Guide/SuccessMap": {"admin", "robot", "guide", "monitor", "console"},
}

WRITES = {
    "evalsha": "stage segment index seen counters allowance +presence +writer",
    "set": "stage +writer",
    "rename": "stage segment",
    "persist": "stage segment",
    "strlen": "stage segment",
    "unlink": "stage segment +writer",
    "hget": "seen counters",
    "hset": "seen counters",
    "hincrby": "counters",
    "xadd": "index",
    "get": "allowance",
    "getrange": "+schema",
    "setnx": "+schema",
    "sadd": "+presence",
}
LOOKS = {
    "hget": "counters",
    "hmget": "counters",
    "hgetall": "counters",
    "getrange": "+schema +writer +reader +lease +number",
    "pttl": "+writer +reader +lease",
    "smembers": "+presence",
    "srem": "+presence",
}
LEARNS = {
    **LOOKS,
    **WRITES,
    "evalsha": WRITES["evalsha"] + " +reader +lease +number",
    "set": "stage allowance +writer +reader +lease +number",
    "unlink": "stage segment index allowance +writer +reader +lease",
    "get": "segment allowance +schema +lease +number",
    "getrange": "segment allowance +schema +writer +reader +lease +number",
    "xrange": "index",
    "xrevrange": "index",
    "xread": "index",
}
BUFFERS = ("demo", "twin", "real", "human")
IN_REPLAY = {
    "learner": (BUFFERS, LEARNS),
    "twin": (("demo", "twin"), WRITES),
    "robot": (("demo", "real", "human"), WRITES),
    "guide": ((), {}),
    "monitor": (BUFFERS, LOOKS),
    "console": (BUFFERS, LOOKS),
}
"""Buffers of each role, and on which keys of them it may run which command; + marks keys of the whole run."""
OF_BUFFER = ("stage", "segment", "index", "seen", "counters", "allowance")
ARGUMENTS = {
    "evalsha": lambda key: ("0" * 40, 1, key),
    "rename": lambda key: (key, key),
    "unlink": lambda key: (key,),
    "xread": lambda key: ("STREAMS", key, "0"),
    "xadd": lambda key: (key, "*", "f", "v"),
}
"""Arguments of commands that take more than a key, where it is not the first or its rest must make sense."""
ELSEWHERE = ("plain", "twinrl-labs:schema", "other:schema", "{other:twin}:counters", "{twinrl-lab:else}:counters")


def test_the_roles_are_these_and_every_call_is_expected_by_somebody():
    assert tuple(role.value for role in Role) == ROLES
    services = {**weights_pb2.DESCRIPTOR.services_by_name, **guide_pb2.DESCRIPTOR.services_by_name}
    assert {f"{name}/{method.name}" for name, one in services.items() for method in one.methods} == set(MAY_CALL)


def flags(credentials):
    names = ("token", "authority", "certificate", "key", "revoked")
    given = {name: getattr(credentials, name) for name in names}
    return [word for name, path in given.items() if path for word in (f"--credentials.{name}", str(path))]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("lab"), hosts=["127.0.0.1"])


@pytest.fixture(scope="module")
def channels(tmp_path_factory, bundles):
    """Starts weights and guide with TLS; gives a channel to each by service and role."""
    folder = tmp_path_factory.mktemp("services")
    settings = save_settings(GuideSettings(space=SPACE), folder / "guide.json")
    serving = flags(bundles["server"])
    for name in ("weights", "guide"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        weights = ServiceProcess("services.weights", folder / "weights", "--store", str(folder / "store"), *serving)
        guide = ServiceProcess("services.guide", folder / "guide", "--settings", str(settings), *serving)
        addresses = {"Weights": stack.enter_context(weights).address, "Guide": stack.enter_context(guide).address}
        with closing(WeightPublisher(addresses["Weights"], credentials=bundles["learner"])) as publisher:
            publisher.publish({"head": {}}, settings={})
            publisher.wait()
        yield {
            (service, role): stack.enter_context(open_channel(address, bundles[role]))
            for service, address in addresses.items()
            for role in ROLES
        }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("method", MAY_CALL)
def test_a_call_is_answered_for_the_roles_that_may_make_it(channels, role, method):
    """On the wire every call is a stream: an empty message goes out, and what comes back first says enough."""
    channel = channels[method.partition("/")[0], role]
    call = channel.stream_stream(f"/twinrl.v1.{method}")(iter([b""]), timeout=TIMEOUT_S)
    code, details = grpc.StatusCode.OK, ""
    try:
        next(call)
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
    call.cancel()
    refused = (code, details) == (grpc.StatusCode.PERMISSION_DENIED, f"the role {role} may not call {method}")
    assert refused == (role not in MAY_CALL[method]), (code, details)
    assert code not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


@pytest.fixture(scope="module")
def administrator(tmp_path_factory):
    """Starts a server with the users of two runs; gives the administrator's client."""
    folder = tmp_path_factory.mktemp("replay")
    files = []
    for prefix in ("twinrl-lab", "other"):
        lab = CertificateFolder(folder / prefix, prefix=prefix)
        for role in ROLES:
            lab.add(role, role, days=1)
        files.append(folder / f"{prefix}.acl")
        files[-1].touch(mode=0o600)
        files[-1].write_text(users_text(prefix, lab.passwords()))
    password = folder / "twinrl-lab" / "admin" / "password"
    config = ServerConfig(users=tuple(files), credentials=Credentials(password=password))
    with EmbeddedServer(folder / "data", config) as server:
        client = redis.Redis.from_url(server.url, decode_responses=True)
        with closing(client):
            yield client


def keys_of(prefix):
    """Names a key of every kind of a run, by buffer ("" for those of the whole run) and kind."""
    one = {"stage": "stage:arm/1:7", "segment": "segment:12"}
    found = {
        (buffer, kind): f"{{{prefix}:{buffer}}}:{one.get(kind, kind)}"
        for buffer, kind in itertools.product(BUFFERS, OF_BUFFER)
    }
    whole = {
        "schema": "schema",
        "presence": "presence",
        "writer": "presence:writer:arm",
        "reader": "presence:reader:rl",
        "lease": "learner",
        "number": "learner:number",
    }
    return found | {("", kind): f"{prefix}:{name}" for kind, name in whole.items()}


def permitted(administrator, role, command, keys):
    """Returns those of the keys on which the server lets the role's user run a command."""
    user = user_of("twinrl-lab", Role(role))
    pipeline = administrator.pipeline(transaction=False)
    for key in keys:
        arguments = ARGUMENTS.get(command, lambda key: (key, "1", "2"))(key)
        pipeline.execute_command("ACL DRYRUN", user, command, *fitting(administrator, command, arguments))
    return {key for key, answer in zip(keys, pipeline.execute(), strict=True) if answer == "OK"}


ARITIES = {}


def fitting(administrator, command, arguments):
    """Returns as many of the arguments as the command takes."""
    if not ARITIES:
        ARITIES.update({name: each["arity"] for name, each in administrator.command().items()})
    arity = ARITIES[command]
    return arguments[: arity - 1] if arity > 0 else arguments


COMMANDS = sorted({*LEARNS, "del", "eval", "hdel", "xtrim", "xdel", "append", "copy", "expire", "type", "dump"})


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("role", IN_REPLAY)
def test_a_command_runs_on_the_keys_of_the_role_and_on_no_others(administrator, role, command):
    buffers, commands = IN_REPLAY[role]
    kinds = commands.get(command, "").split()
    ours, theirs = keys_of("twinrl-lab"), keys_of("other")
    expected = {
        key
        for (buffer, kind), key in ours.items()
        if (kind in kinds and buffer in buffers) or (not buffer and f"+{kind}" in kinds)
    }
    assert permitted(administrator, role, command, [*ours.values(), *theirs.values(), *ELSEWHERE]) == expected


EVERYBODY = {"auth", "hello", "ping", "select", "quit", "reset", "info", "time"}


@pytest.mark.parametrize("role", IN_REPLAY)
def test_of_all_other_commands_of_the_server_none_may_be_run(administrator, role):
    known = {
        command
        for category in administrator.execute_command("ACL CAT")
        for command in administrator.execute_command("ACL CAT", category)
    }
    assert {"flushall", "config|get", "script|load", "function|load", "eval", "acl|setuser"} <= known
    groups = {command.partition("|")[0] for command in known if "|" in command}
    allowed = {command for command in known - groups if may_run(administrator, role, command)}
    assert allowed - set(IN_REPLAY[role][1]) == EVERYBODY
    assert allowed >= set(IN_REPLAY[role][1])


def may_run(administrator, role, command):
    """Returns whether the role's user may run a command on any key at all; a subcommand follows a bar."""
    user, key = user_of("twinrl-lab", Role(role)), "{twinrl-lab:none}:x"
    for count in range(8):
        try:
            answer = administrator.execute_command("ACL DRYRUN", user, *command.split("|"), *[key] * count)
        except redis.ResponseError as error:
            assert "wrong number of arguments" in str(error), error
            continue
        return "no permissions to run" not in answer
    raise AssertionError(f"{command}: no number of arguments will do")


def test_the_administrator_may_do_everything(administrator):
    assert administrator.execute_command("ACL WHOAMI") == "admin"
    assert administrator.execute_command("ACL DRYRUN", "admin", "FLUSHALL") == "OK"
    assert administrator.execute_command("ACL DRYRUN", "admin", "SET", "{other:twin}:x", "1") == "OK"
    assert sorted(administrator.execute_command("ACL USERS")) == sorted(
        ["admin", "default", *(user_of(run, Role(role)) for run in ("twinrl-lab", "other") for role in IN_REPLAY)]
    )
