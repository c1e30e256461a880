"""The block through which exemplars change the tokens of a spot's image (Yang et al. 2023)."""

from typing import Final

import torch
from torch import Tensor, nn

from triplex_deploy.errors import ConfigError

BRIDGE_QUERIES: Final = ("old", "updated")
GATE_INPUTS: Final = ("key", "query")


class ExemplarBridge(nn.Module):
    """Exemplars inform the query, and the query says which tokens matter (MODELS 2.4).

    As in the published code, the gates see [query - key; key] and what the tokens send back is
    added to the query that came in. The paper's equations differ in both: ``gate_input`` "query"
    is [query; query - key], and ``bridge_query`` "updated" adds to the informed query. Any other
    value raises ``ConfigError``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        n_tokens: int,
        bridge_query: str = "old",
        gate_input: str = "key",
    ) -> None:
        super().__init__()
        _require_choice("bridge_query", bridge_query, BRIDGE_QUERIES)
        _require_choice("gate_input", gate_input, GATE_INPUTS)
        self.heads = heads
        self.head_dim = head_dim
        self.n_tokens = n_tokens
        self.bridge_query = bridge_query
        self.gate_input = gate_input
        self.value = nn.Linear(dim, dim)
        self.gates = nn.Sequential(
            nn.Linear(2 * dim, 4 * head_dim), nn.SiLU(), nn.Linear(4 * head_dim, 2 * dim)
        )
        self.key_norm = nn.LayerNorm(dim)
        self.query_norm = nn.LayerNorm(dim)
        self.token_gates = nn.Linear(dim, heads * n_tokens)
        self.token_norm = nn.LayerNorm(dim)
        self.channels = nn.Linear(dim, heads * head_dim)
        self.to_tokens = nn.Linear(heads * head_dim, dim, bias=False)
        self.to_query = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(
        self, tokens: Tensor, query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, D), query (B, 1, D) and keys (B, k, D), updated; values are (B, k, D)."""
        value = self.value(values)
        query_gate, key_gate = self._gates(query, keys).chunk(2, dim=2)  # (B, k, D) each
        informed = query + (query_gate * value).mean(1, keepdim=True)  # (B, 1, D)
        keys = self.key_norm(keys + key_gate * value)
        bridged = self._bridge(tokens, informed)  # (B, T, heads * head_dim)
        base = informed if self.bridge_query == "updated" else query
        query = base + self.to_query(bridged.mean(1, keepdim=True))
        return tokens + self.to_tokens(bridged), query, keys

    def _gates(self, query: Tensor, keys: Tensor) -> Tensor:
        difference = query - keys
        pair = (
            [difference, keys] if self.gate_input == "key" else [query.expand_as(keys), difference]
        )
        gates: Tensor = self.gates(torch.cat(pair, 2)).sigmoid()  # (B, k, 2 D)
        return gates

    def _bridge(self, tokens: Tensor, informed: Tensor) -> Tensor:
        """Channels of the tokens, each head of each token scaled by the informed query."""
        scale = self.token_gates(self.query_norm(informed)).sigmoid()  # (B, 1, heads * T)
        scale = scale.view(-1, self.heads, self.n_tokens, 1).transpose(1, 2)
        channels = self.channels(self.token_norm(tokens))  # (B, T, heads * head_dim)
        channels = channels.view(-1, self.n_tokens, self.heads, self.head_dim)
        bridged: Tensor = (channels * scale).flatten(2)
        return bridged


def _require_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: not known; use {' or '.join(choices)}")
