"""These tests compare Octo's diffusion head with a float64 reference and with the original's numbers."""

import numpy as np
import pytest
import torch
from recorded import linear, needs_recorded, norm, recorded

from policy.heads import DiffusionHead
from policy.heads.chunks import cosine_betas
from policy.settings import DiffusionSettings
from protos.errors import InputError

SMALL = DiffusionSettings(action_horizon=3, action_dim=4, hidden=16, blocks=2, time_dim=8, steps=6)


def make_head(settings=SMALL, features=5):
    torch.manual_seed(0)
    return DiffusionHead(features, settings).eval()


def draws(n, settings=SMALL, seed=1):
    generator = torch.Generator().manual_seed(seed)
    chunk = settings.action_horizon * settings.action_dim
    noise = torch.randn(n, chunk, generator=generator)
    return noise, torch.randn(settings.steps, n, chunk, generator=generator)


class Reference:
    """Computes the same head in numpy and float64, one formula after the other."""

    def __init__(self, head):
        self.p = {name: tensor.detach().double().numpy() for name, tensor in head.state_dict().items()}
        self.settings = head.settings
        t = np.arange(head.settings.steps + 1) / head.settings.steps
        kept = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        self.betas = np.clip(1 - kept[1:] / kept[:-1], 0, 0.999)
        self.hats = np.cumprod(1 - self.betas)

    def dense(self, name, x):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def predict(self, embedding, noisy, time):
        angle = 2 * np.pi * time * self.p["time_frequencies"]
        level = swish(self.dense("time_mlp.0", np.concatenate([np.cos(angle), np.sin(angle)], 1)))
        x = self.dense("enter", np.concatenate([self.dense("time_mlp.2", level), embedding, noisy], 1))
        for i in range(self.settings.blocks):
            mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
            y = (x - mean) / np.sqrt(var + 1e-6) * self.p[f"blocks.{i}.norm.weight"] + self.p[f"blocks.{i}.norm.bias"]
            x = x + self.dense(f"blocks.{i}.down", swish(self.dense(f"blocks.{i}.up", y)))
        return self.dense("leave", swish(x))

    def sample(self, embedding, noise, step_noise):
        x = noise
        for i, t in enumerate(range(self.settings.steps - 1, -1, -1)):
            alpha = 1 - self.betas[t]
            eps = self.predict(embedding, x, np.full((len(x), 1), t))
            x = (x - (1 - alpha) / np.sqrt(1 - self.hats[t]) * eps) / np.sqrt(alpha)
            x = np.clip(x + (t > 0) * np.sqrt(self.betas[t]) * step_noise[i], -5, 5)
        return x.reshape(len(x), self.settings.action_horizon, self.settings.action_dim)


def swish(x):
    return x / (1 + np.exp(-x))


def double(*tensors):
    return tuple(tensor.double().numpy() for tensor in tensors)


def test_noise_prediction_equals_the_reference():
    head = make_head()
    embedding, noisy, time = torch.randn(7, 5), torch.randn(7, 12), torch.randint(0, 6, (7, 1)).float()
    wanted = Reference(head).predict(*double(embedding, noisy, time))
    assert np.abs(head.predict(embedding, noisy, time).detach().numpy() - wanted).max() < 1e-5


def test_sampling_equals_the_reference():
    head, (noise, step_noise), embedding = make_head(), draws(7), torch.randn(7, 5)
    found = head.sample(embedding, noise=noise, step_noise=step_noise)
    wanted = Reference(head).sample(*double(embedding, noise, step_noise))
    assert found.shape == (7, 3, 4)
    assert np.abs(found.detach().numpy() - wanted).max() < 1e-4


def test_samples_repeat_with_the_generator_and_stay_in_their_limits():
    head, embedding = make_head(), torch.randn(7, 5)
    first, second = (head.sample(embedding, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() <= 5
    assert not torch.equal(first, head.sample(embedding, torch.Generator().manual_seed(4)))


def test_denied_numbers_keep_the_noise_of_training():
    head, (noise, step_noise), embedding = make_head(), draws(7), torch.randn(7, 5)
    allowed = torch.tensor([True, True, False, True])
    found = head.sample(embedding, noise=noise, step_noise=step_noise, action_mask=allowed)
    last = (1 - head.alpha_hats[0]).sqrt() * step_noise[-1].reshape(7, 3, 4)
    assert torch.equal(found[:, :, 2], last[:, :, 2])
    assert not torch.isclose(found[:, :, :2], last[:, :, :2]).any()


def test_loss_equals_the_reference_and_leaves_out_what_is_masked():
    head, settings = make_head(), SMALL
    embedding, actions = torch.randn(7, 5), 4 * torch.randn(7, 3, 4)
    time, noise = torch.randint(0, 6, (7, 1)), torch.randn(7, 12)
    mask = torch.rand(7, 3) > 0.4
    reference = Reference(head)
    hat = reference.hats[time.numpy()]
    clean = np.clip(actions.flatten(1).double().numpy(), -5, 5)
    noisy = np.sqrt(hat) * clean + np.sqrt(1 - hat) * noise.double().numpy()
    error = (reference.predict(embedding.double().numpy(), noisy, time.numpy()) - noise.double().numpy()) ** 2
    wanted = error.reshape(7, 3, 4)[mask.numpy()].mean() * settings.action_dim
    assert head.loss(embedding, actions, mask, time=time, noise=noise).item() == pytest.approx(wanted, rel=1e-5)
    nowhere = head.loss(embedding, actions, torch.zeros(7, 3, 4, dtype=torch.bool), time=time, noise=noise)
    assert nowhere.item() == 0.0


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match=r"diffusion\.time_dim=7"):
        DiffusionSettings(time_dim=7)
    with pytest.raises(InputError, match=r"diffusion\.steps=0"):
        DiffusionSettings(steps=0)


@pytest.fixture(scope="module")
def original():
    """The recorded numbers and a head with the recorded weights."""
    arrays = recorded()
    root = "params/heads_action/diffusion_model"
    head = DiffusionHead(64, DiffusionSettings(hidden=64))
    state = {"time_frequencies": torch.from_numpy(arrays[f"{root}/time_preprocess/kernel"][:, 0])}
    state |= linear(arrays, f"{root}/cond_encoder/Dense_0", "time_mlp.0")
    state |= linear(arrays, f"{root}/cond_encoder/Dense_1", "time_mlp.2")
    state |= linear(arrays, f"{root}/reverse_network/Dense_0", "enter")
    state |= linear(arrays, f"{root}/reverse_network/Dense_1", "leave")
    for i in range(3):
        block = f"{root}/reverse_network/MLPResNetBlock_{i}"
        state |= norm(arrays, f"{block}/LayerNorm_0", f"blocks.{i}.norm")
        state |= linear(arrays, f"{block}/Dense_0", f"blocks.{i}.up") | linear(
            arrays, f"{block}/Dense_1", f"blocks.{i}.down"
        )
    head.load_state_dict(state)
    return arrays, head.eval()


def flat(array):
    """(B, W, ...) → (B · W, ...): the original runs its head on every step of the window."""
    return torch.from_numpy(array).flatten(0, 1)


@needs_recorded
@pytest.mark.parametrize("case", ["full", "lang_only", "no_wrist", "goal_only", "window1", "v10"])
def test_the_original_predicts_and_samples_the_same(original, case):
    arrays, head = original
    embedding = flat(arrays[f"{case}/out/readout_action/tokens"]).mean(1)
    inside = f"{case}/head_action/in"
    eps = head.predict(embedding, flat(arrays[f"{inside}/noisy_actions"]), flat(arrays[f"{inside}/time"]))
    assert (eps - flat(arrays[f"{case}/head_action/out/eps"])).abs().max() < 1e-4
    drawn = f"{case}/head_action/sample"
    step_noise = torch.from_numpy(arrays[f"{drawn}/z"]).flatten(1, 2)
    found = head.sample(embedding, noise=flat(arrays[f"{drawn}/noise"]), step_noise=step_noise)
    wanted = arrays[f"{drawn}/actions"]
    last = found.unflatten(0, (len(wanted), -1))[:, -1]
    assert np.abs(last.detach().numpy() - wanted).max() < 1e-4


@needs_recorded
def test_the_original_masks_and_scores_the_same(original):
    arrays, head = original
    assert np.abs(cosine_betas(20).numpy() - arrays["schedule/betas"]).max() < 1e-6
    embedding = flat(arrays["full/out/readout_action/tokens"]).mean(1)
    drawn = "full/head_action/sample"
    allowed = torch.arange(7) < int(arrays["full/head_action/sample_embodiment_dim/dim"])
    found = head.sample(
        embedding,
        noise=flat(arrays[f"{drawn}/noise"]),
        step_noise=torch.from_numpy(arrays[f"{drawn}/z"]).flatten(1, 2),
        action_mask=allowed,
    )
    wanted = arrays["full/head_action/sample_embodiment_dim/actions"]
    assert np.abs(found.unflatten(0, (3, 2))[:, -1].detach().numpy() - wanted).max() < 1e-4

    given = "full/head_action/loss"
    seen = arrays["full/in/timestep_pad_mask"][:, :, None, None]
    loss = head.loss(
        embedding,
        flat(arrays[f"{given}/actions"]),
        flat(arrays[f"{given}/action_pad_mask"] & seen),
        time=flat(arrays[f"{given}/time"][0]).long(),
        noise=flat(arrays[f"{given}/noise"][0]),
    )
    assert loss.item() == pytest.approx(float(arrays[f"{given}/loss"]), abs=1e-5)
