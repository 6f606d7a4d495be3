"""The pre-norm transformer of Octo: LayerNorm eps 1e-6, tanh-approximated GELU, biases everywhere."""

from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU("tanh"), nn.Linear(mlp_dim, dim))

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """x (n, L, D), additive mask (..., L, L); returns the last `rows` tokens (n, rows, D)."""
        length, dim = x.shape[1:]
        normed = self.attention_norm(x)
        weight, bias = self.qkv.weight, self.qkv.bias
        query = functional.linear(normed[:, length - rows :], weight[:dim], bias[:dim])
        key, value = functional.linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        attended = functional.scaled_dot_product_attention(
            self._split(query), self._split(key), self._split(value), attn_mask=mask[..., length - rows :, :]
        )
        x = x[:, length - rows :] + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))

    def _split(self, x: Tensor) -> Tensor:
        """(n, L, D) → (n, heads, L, D / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, dim: int, layers: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """The last `rows` tokens of the output. The last layer computes no others: they would feed nothing."""
        length = x.shape[1]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, rows if i == len(self.blocks) - 1 else length)
        return self.norm(x)
