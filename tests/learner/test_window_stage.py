"""An RL stage runs with windows of two observations and sixteen language tokens."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from acted_episodes import TEXT, act, write_episodes

from actors.policies import NoPolicy, StoredPolicy
from learner.rl import ActorSettings, BatchSettings, CriticSettings, LoopSettings, UpdateSettings
from learner.stage import EngineSettings, RlSettings, run_rl
from learner.stage.data import transition_reader
from policy.acting import BatchActor
from policy.checkpoint import load_manifest, load_policy, save_policy
from policy.language import encode_instruction
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import with_octo
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings
from services.telemetry import read_metrics
from services.weights import WeightSubscriber

TIMEOUT_S = 60.0
SCHEMA = Schema(side_px=32, wrist_px=16)
OCTO = OctoSettings(
    side_px=32,
    wrist_px=16,
    dim=32,
    layers=2,
    heads=2,
    mlp_dim=32,
    window=2,
    max_horizon=4,
    language_tokens=16,
    repeat_language=True,
)
STEPS, EPISODES = 20, 3
UPDATES = {
    "frozen": UpdateSettings(critic=CriticSettings(width=16)),
    "last": UpdateSettings(
        critic=CriticSettings(width=16, encoder="conv"), actor=ActorSettings(backbone="last", lr_backbone=1e-3)
    ),
    "full": UpdateSettings(critic=CriticSettings(width=16), actor=ActorSettings(backbone="full", lr_backbone=1e-3)),
}


ENGINE = EngineSettings(kind="torch")


def never():
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running.url


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Writes a policy like the large presets, but small; its manifest has the action scale."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("policy")
    save_policy(folder, Policy(with_octo(OCTO)), action_scale={"metres": 0.03, "radians": 0.1})
    return folder


def settings_of(server, start, prefix, **changes):
    """Returns settings of a stage; demonstrations without readouts are in the replay already."""
    replay = ReplaySettings(urls=(server,), prefix=prefix)
    write_episodes(replay, SCHEMA, NoPolicy(), "demo", episodes=2, seed=1)
    loop = LoopSettings(
        env_steps=STEPS * EPISODES - EPISODES,
        utd=0.2,
        start_after=10,
        slack=100,
        warmup_updates=2,
        publish_every=3,
        log_every=1,
        data_timeout_s=30.0,
    )
    made = RlSettings(
        replay=replay,
        policy=start,
        schema=SCHEMA,
        batch=BatchSettings(online={"twin": 4}, demo={"demo": 4}),
        loop=loop,
        engine=ENGINE,
        device="cpu",
    )
    return replace(made, **changes)


class Seeing:
    """Passes observations on to the policy and keeps what it answers."""

    def __init__(self, policy):
        self._policy, self.window, self.ready = policy, policy.window, policy.ready
        self.shapes = set()

    def act(self, observation, pad):
        self.shapes.add((observation.side.shape[1:], observation.proprio.shape[1:], pad.shape[1:]))
        return self._policy.act(observation, pad)


def run_with_actor(settings, out):
    """Runs the stage, and an actor that acts with windows as soon as the stage has begun."""
    policy = Seeing(StoredPolicy(settings.policy, TEXT, explore=0.1, seed=0))

    def act_and_write():
        write_episodes(settings.replay, SCHEMA, policy, "twin", episodes=EPISODES + 1, seed=2)

    def watch(line):
        if not actor.ident:
            actor.start()

    actor = threading.Thread(target=act_and_write)
    try:
        assert run_rl(settings, out, resume=False, stop=never, watch=watch)
    finally:
        actor.join(TIMEOUT_S)
    assert policy.shapes == {((2, 32, 32, 3), (2, 25), (2,))}


@pytest.mark.parametrize("backbone", UPDATES)
def test_a_stage_from_acting_to_acting(backbone, server, start, weights, tmp_path):
    settings = settings_of(server, start, f"stage-{backbone}", update=UPDATES[backbone], weights=weights)
    subscriber = WeightSubscriber(weights, name="test")
    run_with_actor(settings, tmp_path / "out")
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert lines[-1]["updates"] >= 8
    assert {line["skipped"] for line in lines if "skipped" in line} == {0}
    first, final = load_policy(start), load_policy(tmp_path / "out" / "policy")
    assert (final.sha256("backbone") == first.sha256("backbone")) == (backbone == "frozen")
    assert load_manifest(tmp_path / "out" / "policy")["action_scale"] == {"metres": 0.03, "radians": 0.1}
    version = load_manifest(tmp_path / "out" / "checkpoint")["weights"]["version"]
    newest = subscriber.wait(version + 1, TIMEOUT_S)
    subscriber.close()
    actor = BatchActor.from_weights(newest, TEXT)
    assert (actor.window, actor.version) == (2, newest.version)
    assert newest.settings["action_scale"] == {"metres": 0.03, "radians": 0.1}
    stored = StoredPolicy(tmp_path / "out" / "policy", TEXT, explore=0.0, seed=0)
    results = act(stored, _Nowhere(), SCHEMA, episodes=2)
    assert [result.steps for result in results] == [STEPS, STEPS]


class _Nowhere:
    def add(self, segment):
        assert segment.observation.proprio.shape[1:] == (25,), "recorded without windows"


def test_batches_hold_windows_and_the_readouts_of_windows(server, start):
    """Readouts that came with the transitions and those computed for demonstrations are of the same windows."""
    settings = settings_of(server, start, "batches")
    write_episodes(settings.replay, SCHEMA, StoredPolicy(start, TEXT, explore=0.0, seed=0), "twin", episodes=2)
    policy = load_policy(start)
    reader = transition_reader(policy, settings)
    images = transition_reader(policy, replace(settings, update=UPDATES["full"]))
    try:
        for one in (reader, images):
            while one.poll():
                pass
        for buffer in ("demo", "twin"):
            rng = [np.random.default_rng(3) for _ in range(2)]
            batch, seen = (one.sample(r, {buffer: 24}) for one, r in zip((reader, images), rng, strict=True))
            np.testing.assert_array_equal(batch.rows, seen.rows)
            assert batch.proprio.shape == batch.next_proprio.shape == (24, 2, 25)
            assert seen.side.shape == (24, 2, 32, 32, 3) and seen.wrist.shape == (24, 2, 16, 16, 3)
            assert batch.pad.any() and not batch.pad[:, -1].any()
            np.testing.assert_array_equal(batch.proprio[batch.pad[:, 0], 0], batch.proprio[batch.pad[:, 0], 1])
            np.testing.assert_allclose(batch.embedding, readouts(policy, seen), atol=1e-4)
            np.testing.assert_allclose(batch.next_embedding, readouts(policy, seen, "next_"), atol=1e-4)
    finally:
        reader.close()
        images.close()


@torch.inference_mode()
def readouts(policy, batch, prefix=""):
    language = torch.from_numpy(encode_instruction(TEXT, policy.settings))[None]
    assert language.shape == (1, 16, 768)
    side, wrist = (torch.from_numpy(getattr(batch, f"{prefix}{camera}")) for camera in ("side", "wrist"))
    mask = None if prefix else torch.from_numpy(~batch.pad)
    return policy.eval().embed(side, wrist, language, mask).numpy()
