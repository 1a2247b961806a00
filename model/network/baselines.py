# SPDX-License-Identifier: MIT
"""The rivals of the spiking network, on the same tokens and with about as many parameters.

Decision transformers without spikes (three tokens a step as in the paper of Chen et al. 2021, or one), one whose
activations are as coarse as the spikes are, and behaviour cloning. All end in tanh, as the spiking network does.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

DROPOUT = 0.1
ACTIVATION_BITS = 3


class Baseline(nn.Module, ABC):
    """What the trainer and `rollout.RecomputeBrain` ask of any network.

    One attention head, learned positions, dropout 0.1 and ReLU are the decision transformer paper's choices for
    MuJoCo. Its embedding of absolute time becomes one of the position in the window, counted from the first real token:
    a token stream carries no clock, and the spiking network has none either.
    """

    quantised = False

    def prepare(self, tokens: Tensor) -> Tensor:
        """Return normalised tokens [..., inputs] as they are, in the network's type."""
        return tokens.to(next(self.parameters()).dtype)

    def forward(self, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        """Predict the action at every token of whole windows.

        tokens [batch, length, inputs] as `prepare` returns them; real [batch, length] bool is False on padding (None:
        there is none) -> actions [batch, length, actions] in -1..1, zero on padding.
        """
        if real is None:
            real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return self._predict(tokens, real) * real[..., None]

    @abstractmethod
    def _predict(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Do what `forward` says, with anything on padding."""


class BehaviourCloning(Baseline):
    """An MLP from the current observation to the action: no history, no return."""

    def __init__(self, width: int, layers: int, inputs: int, actions: int) -> None:
        super().__init__()
        self.observations = inputs - actions - 1
        sizes = [self.observations, *[width] * layers]
        hidden = [
            part for n in range(layers) for part in (nn.Linear(sizes[n], sizes[n + 1]), nn.ReLU(), nn.Dropout(DROPOUT))
        ]
        self.body = nn.Sequential(*hidden, nn.Linear(width, actions), nn.Tanh())

    def _predict(self, tokens: Tensor, real: Tensor) -> Tensor:
        return self.body(tokens[..., : self.observations])


class Quantiser(nn.Module):
    """Learned step size quantisation (LSQ, Esser et al. 2020) to `ACTIVATION_BITS`, signed or not; any shape."""

    def __init__(self, signed: bool) -> None:
        super().__init__()
        levels = 1 << ACTIVATION_BITS
        self.low, self.high = (-levels // 2, levels // 2 - 1) if signed else (0, levels - 1)
        self.step = nn.Parameter(torch.zeros(()))
        self.started = False

    def forward(self, x: Tensor) -> Tensor:
        """Round x to the grid; the rounding passes gradients straight through."""
        if not self.started:
            if self.step.item() == 0.0:  # else it comes from a checkpoint
                self.step.data = 2.0 * x.detach().abs().mean() / self.high**0.5 + 1e-6
            self.started = True
        share = (x.numel() * self.high) ** -0.5
        step = (self.step * (1 - share)).detach() + self.step * share
        scaled = (x / step).clamp(self.low, self.high)
        return (scaled + (scaled.round() - scaled).detach()) * step


class Attend(nn.Module):
    """A GPT-2 block, `x + proj(attention(norm(x)))` then `x + fc2(relu(fc1(norm(x))))`.

    quantised : round the inputs of every linear and the key, value and query to `ACTIVATION_BITS`, where the spiking
    network has spikes.
    """

    def __init__(self, width: int, quantised: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.kvq, self.proj = _linear(width, 3 * width), _linear(width, width)
        self.fc1, self.fc2 = _linear(width, 4 * width), _linear(4 * width, width)
        signs = {"kvq": True, "key": True, "value": True, "query": True, "proj": True, "fc1": True, "fc2": False}
        self.round = nn.ModuleDict({name: Quantiser(s) if quantised else nn.Identity() for name, s in signs.items()})
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [batch, n, width], mask [batch, 1, n, n] true where attention may look -> x."""
        parts = self.kvq(self.round["kvq"](self.norms[0](x))).chunk(3, dim=-1)
        k, v, q = (self.round[name](part)[:, None] for name, part in zip(("key", "value", "query"), parts, strict=True))
        dropout = DROPOUT if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)[:, 0]
        x = x + self.dropout(self.proj(self.round["proj"](y)))
        h = torch.relu(self.fc1(self.round["fc1"](self.norms[1](x))))
        return x + self.dropout(self.fc2(self.round["fc2"](h)))


class DecisionTransformer(Baseline):
    """Softmax attention over the window, with three tokens a step (action before, return-to-go, state) or with one."""

    def __init__(
        self, width: int, layers: int, inputs: int, actions: int, length: int, split: bool, quantised: bool
    ) -> None:
        super().__init__()
        observations = inputs - actions - 1
        # of a token's components: observation, previous action, return-to-go
        self.sizes = [observations, actions, 1] if split else [inputs]
        self.embed = nn.ModuleList(_linear(size, width) for size in self.sizes)
        self.position = nn.Embedding(length, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.blocks = nn.ModuleList(Attend(width, quantised) for _ in range(layers))
        self.head = _linear(width, actions)
        self.dropout = nn.Dropout(DROPOUT)

    def _predict(self, tokens: Tensor, real: Tensor) -> Tensor:
        parts = [embed(part) for embed, part in zip(self.embed, tokens.split(self.sizes, dim=-1), strict=True)]
        # the state comes last: the action is predicted where all of its step is known
        x = torch.stack(parts[1:] + parts[:1], dim=2)
        x = x + self.position((real.cumsum(1) - 1).clamp(min=0))[:, :, None]
        n = len(parts)
        x = self.dropout(self.norms[0](x.flatten(1, 2)))
        shown = real.repeat_interleave(n, dim=1)
        causal = torch.ones((shown.shape[1],) * 2, dtype=torch.bool, device=x.device).tril()
        # padding sees itself, or its softmax would be over nothing
        mask = (causal & shown[:, None]) | torch.eye(len(causal), dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, mask[:, None])
        return torch.tanh(self.head(self.norms[1](x[:, n - 1 :: n])))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear


def parameters(network: nn.Module) -> int:
    """Return how many numbers training moves."""
    return sum(parameter.numel() for parameter in network.parameters())


def build(kind: str, layers: int, inputs: int, actions: int, length: int, budget: int) -> Baseline:
    """Return a baseline to train, drawn from torch's random generator, as wide as comes closest to `budget` parameters.

    kind : "dt-3-token", "dt-1-token", "dt-3-bit" (dt-1-token on a grid) or "bc". length : tokens of a window.
    """

    def of(width: int) -> Baseline:
        if kind == "bc":
            return BehaviourCloning(width, layers, inputs, actions)
        return DecisionTransformer(width, layers, inputs, actions, length, kind == "dt-3-token", kind == "dt-3-bit")

    def miss(width: int) -> int:
        return parameters(of(width)) - budget

    with torch.device("meta"), torch.random.fork_rng():
        low, high = 1, 2
        while miss(high) < 0:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if miss(middle) < 0 else (low, middle)
        width = min((low, high), key=lambda w: abs(miss(w)))
    return of(width)
