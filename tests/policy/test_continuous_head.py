"""These tests compare Octo's regression heads and attention pooling with float64 references and the original."""

import numpy as np
import pytest
import torch
from recorded import linear, needs_recorded, norm, recorded

from policy.heads import ContinuousHead, MapPooling
from policy.settings import ContinuousSettings
from protos.errors import InputError

CHUNK = ContinuousSettings(action_horizon=2, action_dim=3)


def make_head(kind="mse", settings=CHUNK, features=16):
    torch.manual_seed(0)
    return ContinuousHead(features, settings, kind).eval()


def test_actions_are_squashed_means():
    head, tokens = make_head(), 20 * torch.randn(5, 4, 16)
    weight, bias = (p.detach().double().numpy() for p in (head.mean.weight, head.mean.bias))
    wanted = 5 * np.tanh((tokens.double().numpy().mean(1) @ weight.T + bias) / 5)
    found = head(tokens)
    assert np.abs(found.detach().numpy().reshape(5, 6) - wanted).max() < 1e-5
    assert found.shape == (5, 2, 3) and found.abs().max() <= 5
    assert torch.equal(head(tokens[:, 0]), head(tokens[:, :1])), "one token needs no axis of its own"
    assert torch.equal(head.sample(tokens), found), "nothing is drawn"


@pytest.mark.parametrize(("kind", "measure"), [("mse", np.square), ("l1", np.abs)])
def test_losses_count_what_is_not_masked(kind, measure):
    head, tokens, actions = make_head(kind), torch.randn(5, 16), torch.randn(5, 2, 3)
    mask = torch.rand(5, 2, 3) > 0.5
    wanted = measure((head(tokens) - actions).detach().double().numpy())[mask.numpy()].mean() * 3
    assert head.loss(tokens, actions, mask).item() == pytest.approx(wanted, rel=1e-5)


def test_pooling_equals_the_reference():
    torch.manual_seed(0)
    pooling = MapPooling(16, probes=2).eval()
    tokens, mask = torch.randn(3, 5, 16), torch.rand(3, 5) > 0.3
    mask[0] = False
    p = {name: tensor.detach().double().numpy() for name, tensor in pooling.state_dict().items()}
    wanted = reference_pooling(p, tokens.double().numpy(), mask.numpy())
    assert np.abs(pooling(tokens, mask).detach().numpy() - wanted).max() < 1e-5
    assert torch.allclose(pooling(tokens, torch.ones(3, 5, dtype=torch.bool)), pooling(tokens), atol=1e-6)


def reference_pooling(p, tokens, mask):
    """Eight heads of two numbers; one row, one probe, one head at a time."""

    def dense(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    out = np.zeros((len(tokens), 2, 16))
    for n, row in enumerate(tokens):
        for i, probe in enumerate(p["probe"][0]):
            query, key, value = dense("query", probe), dense("key", row), dense("value", row)
            for h in range(8):
                part = slice(2 * h, 2 * h + 2)
                logit = np.where(mask[n], key[:, part] @ query[part] / np.sqrt(2), -1e300)
                weight = np.exp(logit - logit.max())
                out[n, i, part] = weight @ value[:, part] / weight.sum()
    out = dense("out", out)
    normed = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-6)
    hidden = dense("mlp.0", normed * p["norm.weight"] + p["norm.bias"])
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return out + dense("mlp.2", hidden)


def test_impossible_sizes_are_refused():
    with pytest.raises(InputError, match=r"continuous\.action_horizon=0"):
        ContinuousSettings(action_horizon=0)


@needs_recorded
@pytest.mark.parametrize(("kind", "name", "group"), [("mse", "mse_map", "obs"), ("l1", "l1_mean", "readout_action")])
def test_the_original_regresses_the_same(kind, name, group):
    arrays = recorded()
    head = make_head(kind, ContinuousSettings(action_horizon=4, use_map=kind == "mse"), features=64)
    root = f"aux_params/{name}"
    state = linear(arrays, f"{root}/mean_proj", "mean")
    if kind == "mse":
        attention = f"{root}/map_head/MultiHeadDotProductAttention_0"
        state |= {"pooling.probe": torch.from_numpy(arrays[f"{root}/map_head/probe"])}
        state |= norm(arrays, f"{root}/map_head/LayerNorm_0", "pooling.norm")
        state |= linear(arrays, f"{root}/map_head/MlpBlock_0/Dense_0", "pooling.mlp.0")
        state |= linear(arrays, f"{root}/map_head/MlpBlock_0/Dense_1", "pooling.mlp.2")
        for layer in ("query", "key", "value"):
            state |= linear(arrays, f"{attention}/{layer}", f"pooling.{layer}")
        kernel = arrays[f"{attention}/out/kernel"]
        state |= {
            "pooling.out.weight": torch.from_numpy(kernel.reshape(-1, kernel.shape[-1]).T.copy()),
            "pooling.out.bias": torch.from_numpy(arrays[f"{attention}/out/bias"]),
        }
    head.load_state_dict(state)
    tokens, token_mask = (torch.from_numpy(arrays[f"full/out/{group}/{x}"]).flatten(0, 1) for x in ("tokens", "mask"))
    found = head(tokens, token_mask)
    assert np.abs(found.detach().numpy() - arrays[f"full/aux_heads/{name}/out"].reshape(6, 4, 7)).max() < 1e-4
    given = "full/head_action/loss"
    mask = arrays[f"{given}/action_pad_mask"] & arrays["full/in/timestep_pad_mask"][:, :, None, None]
    actions = torch.from_numpy(arrays[f"{given}/actions"]).flatten(0, 1)
    loss = head.loss(tokens, actions, torch.from_numpy(mask).flatten(0, 1), token_mask)
    assert loss.item() == pytest.approx(float(arrays[f"full/aux_heads/{name}/loss"]), abs=1e-5)
