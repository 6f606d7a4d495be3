"""The same RL update on cached readouts, written a second time and as plainly as possible.

Nothing of `learner` or of the networks is used but their initial numbers: what one would write in an afternoon for this
one case. It says what the structure of `learner.rl.update` costs, and that both mean the same.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from learner.rl import RlAgent

State = dict[str, Tensor]


class PlainLearner:
    """Head, critics and targets as stacks of layers, one Adam for each side; starts where `agent` is."""

    def __init__(self, agent: RlAgent) -> None:
        policy, head, ensemble = agent.policy, agent.policy.consistency, agent.critic
        if agent.settings.needs_images or head.settings.network != "gelu" or policy.settings.proprio_encoder != "plain":
            raise ValueError("only the light head on cached readouts was written again")
        self.settings, self.head_settings = agent.settings, head.settings
        self.dims, self.indices = policy.settings.active_action_dims, policy.settings.proprio_indices
        self.proprio_mean, self.proprio_std = policy.normalization.mean.clone(), policy.normalization.std.clone()
        self.mean, self.std = ensemble.mean.clone(), ensemble.std.clone()
        width, features, actions = head.settings.width, policy.settings.feature_dim, len(self.dims)
        self.head = nn.Sequential(
            nn.Linear(features + actions + 16, width), nn.LayerNorm(width), nn.GELU(),
            nn.Linear(width, width), nn.LayerNorm(width), nn.GELU(),
            nn.Linear(width, actions),
        )  # fmt: skip
        self.head.load_state_dict(head.net.state_dict())
        self.critics = _critics(agent.critic.state_dict(), ensemble.members)
        self.targets = _critics(agent.target.state_dict(), ensemble.members)
        self.actor_optimizer = torch.optim.Adam(self.head.parameters(), lr=self.settings.actor.lr)
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=self.settings.critic.lr)

    def update(self, batch: Mapping[str, Tensor], progress: float = 0.0) -> dict[str, float]:
        """One online update; noise that the batch does not hold is drawn."""
        x, action = self._features(batch, ""), batch["action"][:, list(self.dims)]
        with torch.no_grad():
            x_next = self._features(batch, "next_")
            value = (
                self._q(self.targets, x_next, self._act(x_next, _noise(batch, "target_noise", action))).min(0).values
            )
            if self.settings.critic.target_clip is not None:
                value = value.clamp(*self.settings.critic.target_clip)
            wanted = batch["reward"] + batch["discount"] * value
        td = (batch["weight"] * (self._q(self.critics, x, action) - wanted) ** 2).mean()
        level = batch.get("level", torch.randint(0, self.head_settings.levels - 1, (len(action),)))
        sigma = self._sigma(level)
        denoised = self._denoise(x, action + sigma[:, None] * _noise(batch, "bc_noise", action), sigma)
        error = ((denoised - action) ** 2).mean(1)
        bc = (batch["imitate"] * error).sum() / batch["imitate"].sum()
        actor_q = self._q(self.critics, x, self._act(x, _noise(batch, "actor_noise", action))).mean()
        (beta, eta), (beta_end, eta_end) = self.settings.actor.weights_start, self.settings.actor.weights_end
        beta, eta = beta + progress * (beta_end - beta), eta + progress * (eta_end - eta)
        self._step(td, beta * bc - eta * actor_q, progress)
        return {name: float(value.detach()) for name, value in (("td", td), ("bc", bc), ("actor_q", actor_q))}

    def _step(self, critic_loss: Tensor, actor_loss: Tensor, progress: float) -> None:
        """Gradients of each loss for its own network, clipping, both steps, the targets."""
        critic, actor = list(self.critics.parameters()), list(self.head.parameters())
        for parameters, loss in ((critic, critic_loss), (actor, actor_loss)):
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
        if self.settings.actor.clip_norm is not None:
            nn.utils.clip_grad_norm_(actor, self.settings.actor.clip_norm)
        for group in self.actor_optimizer.param_groups:
            group["lr"] = self.settings.actor.lr * min(1.0, max(0.1, 2 - 2 * progress))
        self.critic_optimizer.step()
        self.actor_optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.targets.parameters(), critic, strict=True):
                slow.add_(self.settings.critic.tau * (fast - slow))

    def _features(self, batch: Mapping[str, Tensor], prefix: str) -> Tensor:
        proprio = ((batch[f"{prefix}proprio"] - self.proprio_mean) / self.proprio_std).clamp(-5, 5)
        return torch.cat([batch[f"{prefix}embedding"], proprio[:, list(self.indices)]], dim=1)

    def _act(self, x: Tensor, noise: Tensor) -> Tensor:
        top = self.head_settings.sigma_max
        return self._denoise(x, top * noise, torch.full((len(x),), top)).clamp(-1, 1)

    def _denoise(self, x: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Consistency models (arXiv 2303.01469), Appendix C: c_skip, c_out, c_in with ε = σ_min."""
        s, data, least = sigma[:, None], self.head_settings.sigma_data, self.head_settings.sigma_min
        c_skip = data**2 / ((s - least) ** 2 + data**2)
        c_out = data * (s - least) / (data**2 + s**2).sqrt()
        c_in = 1 / (s**2 + data**2).sqrt()
        angle = s.log() / 4 * torch.logspace(0, 2, 8)
        inside = torch.cat([x, c_in * noisy, angle.sin(), angle.cos()], dim=1)
        return c_skip * noisy + c_out * cast("Tensor", self.head(inside))

    def _sigma(self, level: Tensor) -> Tensor:
        """Karras's levels from σ_max down (arXiv 2206.00364, Eq. 5)."""
        h = self.head_settings
        share = level / (h.levels - 1)
        return (h.sigma_max ** (1 / h.rho) + share * (h.sigma_min ** (1 / h.rho) - h.sigma_max ** (1 / h.rho))) ** h.rho

    def _q(self, critics: nn.ModuleList, x: Tensor, action: Tensor) -> Tensor:
        inside = torch.cat([((x - self.mean) / self.std).clamp(-5, 5), action], dim=1)
        return torch.stack([critic(inside)[:, 0] for critic in critics])


def _noise(batch: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    return batch[name] if name in batch else torch.randn_like(like)


def _critics(state: State, members: int) -> nn.ModuleList:
    """One stack of layers for each member of the ensemble."""
    stacks = []
    for member in range(members):
        layers: list[nn.Module] = []
        for index in range(3):
            weight, bias = state[f"weights.{index}"][member], state[f"biases.{index}"][member, 0]
            linear = nn.Linear(*weight.shape)
            linear.load_state_dict({"weight": weight.T, "bias": bias})
            layers += [linear, nn.LayerNorm(weight.shape[1], elementwise_affine=False), nn.GELU()]
        stacks.append(nn.Sequential(*layers[:-2]))
    return nn.ModuleList(stacks)
