"""This module writes files in the layout of the reference numbers, of any sizes, computed by our own modules."""

import json

import numpy as np
import torch
from transformers import T5Config, T5EncoderModel

from policy.heads import ContinuousHead, DiffusionHead
from policy.octo.model import CameraMask, Goals, Octo, OctoInputs
from policy.octo.official.names import continuous_rules, diffusion_rules, octo_rules, t5_rules, to_official
from policy.octo.settings import OctoSettings
from policy.settings import ContinuousSettings, DiffusionSettings

SIZES = OctoSettings(
    side_px=48,
    wrist_px=32,
    dim=24,
    layers=3,
    heads=3,
    mlp_dim=40,
    window=3,
    max_horizon=5,
    stem="small_stem",
    stem_features=(32, 32, 64, 32),
    stem_out=20,
    goal_images=True,
    language_tokens=6,
    repeat_language=True,
    language_dim=28,
    readout_tokens=2,
)
HEAD = DiffusionSettings(action_horizon=2, action_dim=5, hidden=16, blocks=2, time_dim=8, steps=6)
WORDS, ROWS = 37, 2


def model_config(octo=SIZES, head=HEAD):
    """config.json of these sizes."""
    stem = {"features": list(octo.stem_features), "num_features": octo.stem_out}
    cameras = {
        name: spec(
            "ImageTokenizer",
            obs_stack_keys=[f"image_{name}"],
            task_stack_keys=[f"image_{name}"],
            encoder=spec("SmallStem16", **stem),
        )
        for name in ("primary", "wrist")
    }
    action = {"readout_key": "readout_action", "action_horizon": head.action_horizon, "action_dim": head.action_dim}
    sizes = {"hidden_dim": head.hidden, "num_blocks": head.blocks, "time_dim": head.time_dim}
    return {
        "model": {
            "observation_tokenizers": cameras,
            "task_tokenizers": {"language": spec("LanguageTokenizer", encoder="t5-base", finetune_encoder=False)},
            "heads": {
                "action": spec("DiffusionActionHead", **action, **sizes, use_map=False, diffusion_steps=head.steps)
            },
            "readouts": {"action": octo.readout_tokens},
            "transformer_kwargs": {
                "num_layers": octo.layers,
                "mlp_dim": octo.mlp_dim,
                "num_attention_heads": octo.heads,
                "add_position_embedding": False,
            },
            "token_embedding_size": octo.dim,
            "max_horizon": octo.max_horizon,
            "repeat_task_tokens": octo.repeat_language,
            "use_correct_attention": octo.correct_attention,
        },
        "window_size": octo.window,
    }


def spec(name, **kwargs):
    return {"module": "octo.model.components", "name": name, "args": [], "kwargs": kwargs}


def modules(octo=SIZES, head=HEAD):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=WORDS, d_model=octo.language_dim, d_kv=7, d_ff=18, num_layers=2, num_heads=3, dropout_rate=0.0
    )
    return Octo(octo), DiffusionHead(octo.dim, head), T5EncoderModel(config).eval()


def official_params(octo, head, encoder):
    """All parameters under their official paths."""
    params = to_official(octo.state_dict(), octo_rules(octo.settings))
    params |= to_official(head.state_dict(), diffusion_rules(head.settings.blocks))
    return params | to_official(dict(encoder.named_parameters()), t5_rules(encoder.config.num_layers))


def reference_arrays():
    """One case with everything in it, as {name: array}."""
    octo, head, encoder = modules()
    arrays = {f"params/{path}": array for path, array in official_params(octo, head, encoder).items()}
    arrays["config_json"] = np.array(json.dumps({**model_config(), "cases": {"whole": {}}}))
    for name in ("betas", "alphas", "alpha_hats"):
        arrays[f"schedule/{name}"] = getattr(head, name).numpy()
    given, inputs = _inputs(encoder)
    embedding, outputs, case = _transformer(octo, inputs)
    case |= given | _head(head, embedding) | _loss(octo, head, embedding, inputs)
    case |= _other_head(arrays, outputs["readout_action"])
    return arrays | {f"whole/{name}": _numpy(value) for name, value in case.items()}


def _inputs(encoder):
    rng = np.random.default_rng(0)
    time = np.array([[False, True, True], [True, True, True]])
    ids, padding = rng.integers(0, WORDS, (ROWS, 6)), np.arange(6) < np.array([[4], [6]])
    wrist_mask = np.array([[True, False, True], [True, True, True]])
    given = {
        "in/observations/image_primary": rng.integers(0, 256, (ROWS, 3, 48, 48, 3), np.uint8),
        "in/observations/image_wrist": rng.integers(0, 256, (ROWS, 3, 32, 32, 3), np.uint8),
        "in/observations/pad_mask_dict/image_wrist": wrist_mask,
        "in/tasks/image_primary": rng.integers(0, 256, (ROWS, 48, 48, 3), np.uint8),
        "in/tasks/language_instruction/input_ids": ids.astype(np.int32),
        "in/tasks/language_instruction/attention_mask": padding.astype(np.int32),
        "in/tasks/pad_mask_dict/language_instruction": np.array([True, False]),
        "in/timestep_pad_mask": time,
    }
    with torch.no_grad():
        words = encoder(input_ids=torch.tensor(ids), attention_mask=torch.tensor(padding).long()).last_hidden_state
    inputs = OctoInputs(
        side=torch.tensor(given["in/observations/image_primary"]),
        wrist=torch.tensor(given["in/observations/image_wrist"]),
        language=words,
        goals=Goals(side=torch.tensor(given["in/tasks/image_primary"])),
        timestep_mask=torch.tensor(time),
        camera_mask=CameraMask(wrist=torch.tensor(wrist_mask)),
        language_mask=torch.tensor([True, False]),
    )
    return given, inputs


def _transformer(octo, inputs):
    seen = {}
    block, stem = octo.transformer.blocks[2], octo.tokenizers["wrist"].stem
    named = {"mid/encoderblock_2": block, "mid/encoderblock_2/MlpBlock_0": block.mlp}
    hooks = [
        module.register_forward_hook(lambda _, given, output, name=name: seen.update({name: output.detach().clone()}))
        for name, module in {**named, "stem": stem[3]}.items()
    ]
    outputs = octo.outputs(inputs)
    for hook in hooks:
        hook.remove()
    case = {f"out/{name.replace('side', 'primary')}/tokens": group.tokens for name, group in outputs.items()}
    case |= {f"out/{name.replace('side', 'primary')}/mask": group.mask for name, group in outputs.items()}
    case |= {name: seen[name] for name in named}
    stem_name = "mid/observation_tokenizers_wrist/SmallStem16_0/StdConv_1[frame0]"
    case[stem_name] = seen["stem"][:1].permute(0, 2, 3, 1)
    case["mid/attention_mask"] = octo.allowed(octo.groups(inputs), inputs)
    case["mid/task_tokenizers_language/tokens"] = inputs.language
    case["mid/observation_tokenizers_wrist/mask"] = inputs.camera_mask.wrist[:, :, None].expand(-1, -1, 4)
    return outputs["readout_action"].tokens.mean(2), outputs, case


def _head(head, embedding):
    chunk = head.chunk
    time, noisy = torch.randint(0, HEAD.steps, (ROWS, 3, 1)).float(), torch.randn(ROWS, 3, chunk)
    noise, z = torch.randn(ROWS, 3, chunk), torch.randn(HEAD.steps, ROWS, 3, chunk)
    with torch.no_grad():
        eps = head.predict(embedding.flatten(0, 1), noisy.flatten(0, 1), time.flatten(0, 1))
        drawn = {"noise": noise[:, -1], "step_noise": z[:, :, -1]}
        actions = head.sample(embedding[:, -1], **drawn)
        fewer = head.sample(embedding[:, -1], **drawn, action_mask=torch.arange(HEAD.action_dim) < 3)
    found = {"in/time": time, "in/noisy_actions": noisy, "out/eps": eps.view(ROWS, 3, -1)}
    found |= {"sample/noise": noise, "sample/z": z, "sample/actions": actions}
    found |= {"sample_embodiment_dim/dim": np.array(3), "sample_embodiment_dim/actions": fewer}
    return {f"head_action/{name}": value for name, value in found.items()}


def _loss(octo, head, embedding, inputs):
    """Two samples of noise, as the original draws `n_diffusion_samples`."""
    actions = torch.randn(ROWS, 3, HEAD.action_horizon, HEAD.action_dim)
    mask = torch.rand(actions.shape) > 0.2
    time, noise = torch.randint(0, HEAD.steps, (2, ROWS, 3, 1)), torch.randn(2, ROWS, 3, head.chunk)
    counted = (mask & inputs.timestep_mask[:, :, None, None]).flatten(0, 1)
    rows = embedding.flatten(0, 1), actions.flatten(0, 1), counted
    losses = [head.loss(*rows, time=t.flatten(0, 1), noise=n.flatten(0, 1)) for t, n in zip(time, noise, strict=True)]
    loss = (losses[0] + losses[1]) / 2
    loss.backward()
    leaves = to_official(_gradients(octo), octo_rules(octo.settings))
    leaves |= to_official(_gradients(head), diffusion_rules(HEAD.blocks))
    given = {"actions": actions, "action_pad_mask": mask, "time": time.int(), "noise": noise, "loss": loss, "mse": loss}
    found = {f"head_action/loss/{name}": value for name, value in given.items()} | {"grad/loss": loss}
    found |= {f"grad/norm/{path}": np.linalg.norm(leaf) for path, leaf in leaves.items()}
    found["grad/norm/octo_transformer/task_tokenizers_language/hf_model/shared/embedding"] = np.float32(0)
    path = "octo_transformer/readout_action_pos_embedding"
    return found | {f"grad/full/{path}": leaves[path]}


def _gradients(module):
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in module.named_parameters()
    }


def _other_head(arrays, group):
    """A regression head with attention pooling; it pools `obs` in the original, so it is left to the public file."""
    torch.manual_seed(1)
    head = ContinuousHead(SIZES.dim, ContinuousSettings(action_horizon=2, action_dim=5), "l1")
    rules = continuous_rules("l1_mean", use_map=False)
    arrays |= {f"aux_params/{path}": array for path, array in to_official(head.state_dict(), rules).items()}
    with torch.no_grad():
        out = head(group.tokens.flatten(0, 1)).view(ROWS, 3, 2, 5)
    return {"aux_heads/l1_mean/out": out, "aux_heads/l1_mean/actions": out[:, -1]}


def _numpy(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
