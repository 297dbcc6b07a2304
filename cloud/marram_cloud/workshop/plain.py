"""What some functions of ``torch.nn.functional`` do while a program is traced: the same, by plain operators.

Chance comes from a seed that is an input of the program, and running statistics become an output of it: a
program is a pure function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from marram_cloud.workshop import gru, lstm, recurrent
from marram_cloud.workshop.normalise import batch_norm, with_statistics
from marram_cloud.workshop.translations import UnsupportedError

# Of a Lehmer generator; squares modulo this prime still fit in 63 bits.
_PRIME = 2**31 - 1
_REPLACED = (
    "dropout", "dropout1d", "dropout2d", "dropout3d", "batch_norm", "linear", "scaled_dot_product_attention",
    "silu", "mish",
)  # fmt: skip
_RECURRENT = ("gru", "gru_cell", "lstm", "lstm_cell", "rnn_tanh", "rnn_relu")


@dataclass
class Plain:
    """The functions. seed: int64 (); None where there is no chance. seen: for each tensor of running means or
    variances that was used in training, by ``id``, the batch's: what its step leads to. windows: what the
    module is given.
    """

    seed: Tensor | None = None
    seen: dict[int, Tensor] = field(default_factory=dict)
    used: int = 0
    normalised: int = 0
    windows: Tensor | None = None

    @contextmanager
    def installed(self) -> Iterator[Plain]:
        """Within, modules and functions that are written in Python use these."""
        with ExitStack() as stack:
            for name in _REPLACED:
                stack.enter_context(patch.object(functional, name, getattr(self, name)))
            for name in _RECURRENT:
                stack.enter_context(patch.object(torch._VF, name, getattr(self, name)))
            yield self

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Srivastava et al., 2014; which values are dropped follows from the seed and the order of calls."""
        return self._dropped(input, p, input.ndim) if training else input

    def dropout1d(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        """Whole channels of each window."""
        return self._dropped(input, p, 2) if training else input

    dropout2d = dropout3d = dropout1d

    def _dropped(self, input: Tensor, p: float, axes: int) -> Tensor:
        if self.seed is None or p == 0:
            return input
        self.used += 1
        if p == 1:
            return input * 0
        count = math.prod(input.shape[1:axes])
        number = chance(torch.arange(input.shape[0]), torch.arange(count), self.seed, self.used)
        kept = (number >= round((p - 0.5) * 2**64)).to(input.dtype) / (1 - p)
        return input * kept.reshape(-1, *input.shape[1:axes], *(1,) * (input.ndim - axes))

    def batch_norm(
        self, input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
        weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        """Ioffe and Szegedy, 2015; see ``seen``: it does not move the running statistics itself."""
        gain = (
            torch.ones_like(input[0].detach().reshape(input.shape[1], -1)[:, 0]) if weight is None else weight
        )
        offset = torch.zeros_like(gain) if bias is None else bias
        if not training and running_mean is not None and running_var is not None:
            return with_statistics(input, gain, offset, running_mean, running_var, eps)
        count = self._rows(input) * math.prod(input.shape[2:])
        self.normalised += 1
        made, mean, variance = batch_norm(input, gain, offset, count, eps, self.normalised)
        if running_mean is not None and running_var is not None:
            unbiased = variance * (count / torch.clamp(count - 1, min=1))
            for running, value in ((running_mean, mean), (running_var, unbiased)):
                before = self.seen.get(id(running))
                # A module that is called again moves on from where its first call led.
                again = value if before is None else value + (1 - momentum) * (before - running)
                self.seen[id(running)] = again
        return made

    def _rows(self, input: Tensor) -> Tensor:
        """How many there are, as a tensor: the batch may have any size. Float32 ()."""
        counted = input if self.windows is None or self.windows.shape[0] != input.shape[0] else self.windows
        return torch.ones_like(counted.detach().flatten(1)[:, 0]).sum()

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Of rows, whatever stands in front of them: PyTorch's own form wants a fixed batch for more axes."""
        rows = input.reshape(-1, input.shape[-1])
        made = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        return made if input.ndim == 2 else made.reshape(*input.shape[:-1], weight.shape[0])

    def silu(self, input: Tensor, inplace: bool = False) -> Tensor:
        """x * sigmoid(x); the gradient that PyTorch writes for it fills an empty tensor."""
        return input * torch.sigmoid(input)

    def gru(
        self, input: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, layers: int, dropout: float,
        training: bool, bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Cho et al., 2014, in PyTorch's form."""
        _refuse_packed(weights)
        return gru.gru(
            input, hx, weights, bias, layers, bidirectional,
            lambda seen: self.dropout(seen, dropout, training), batch_first,
        )  # fmt: skip

    def lstm(
        self, input: Tensor, hx: tuple[Tensor, Tensor], weights: list[Tensor], bias: bool, layers: int,
        dropout: float, training: bool, bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Hochreiter and Schmidhuber, 1997, in PyTorch's form."""
        _refuse_packed(weights)
        if hx[0].shape[2] != hx[1].shape[2]:
            raise UnsupportedError("LSTM with proj_size has no form on a device: use nn.Linear after nn.LSTM")
        return lstm.lstm(
            input, hx, weights, bias, layers, bidirectional,
            lambda seen: self.dropout(seen, dropout, training), batch_first,
        )  # fmt: skip

    def rnn_tanh(
        self, *arguments: Any, bend: Callable[[Tensor], Tensor] = torch.tanh,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Elman, 1990."""
        input, hx, weights, bias, layers, dropout, training, bidirectional, batch_first = arguments
        _refuse_packed(weights)
        return recurrent.rnn(
            input, hx, weights, bias, layers, bidirectional,
            lambda seen: self.dropout(seen, dropout, training), batch_first, bend,
        )  # fmt: skip

    def rnn_relu(self, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """The same with ReLU for tanh."""
        return self.rnn_tanh(*arguments, bend=torch.relu)

    def gru_cell(self, *arguments: Any) -> Tensor:  # noqa: ANN401
        """One step of ``gru``."""
        return gru.cell(*arguments)

    def lstm_cell(self, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """One step of ``lstm``."""
        return lstm.cell(*arguments)

    def mish(self, input: Tensor, inplace: bool = False) -> Tensor:
        """x * tanh(softplus(x)) (Misra, arXiv 1908.08681), for the same reason as ``silu``."""
        return input * torch.tanh(functional.softplus(input))

    def scaled_dot_product_attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **more: object,
    ) -> Tensor:  # fmt: skip
        """Vaswani et al., 2017."""
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2]).tril() > 0
        if attn_mask is not None:
            forbidden = attn_mask.dtype == torch.bool
            scores = scores + (torch.where(attn_mask, 0.0, -1e9) if forbidden else attn_mask)
        return self.dropout(torch.softmax(scores, dim=-1), dropout_p) @ value


def _refuse_packed(weights: object) -> None:
    """Of a packed sequence PyTorch gives something else in their place."""
    if not isinstance(weights, list):
        raise UnsupportedError(
            "packed sequences have no form on a device, where all windows are of one length: use the tensor "
            "itself"
        )


def chance(rows: Tensor, columns: Tensor, seed: Tensor, stream: int) -> Tensor:
    """Numbers that look like chance, any of int64's, (rows, columns), for int64 numbers of each.

    ``a * c + b`` in 64 bits, of which the upper count: a, b of the row and the seed, c of the column, all
    mixed well (Dietzfelbinger, "Universal hashing and k-wise independent random variables via integer
    arithmetic without primes", 1996). Enough for dropout, not for secrets, and cheap for each value.
    """
    start = (seed % _PRIME) * 40692 + stream * 69621
    upper, lower, offset = (_mixed(rows * 48271 + start + 12345 * number) for number in (1, 2, 3))
    factor = upper * 2**33 + lower * 4 + 1
    return factor[:, None] * _mixed(columns * 16807 + 7) + (offset * 2**33)[:, None]


def _mixed(number: Tensor) -> Tensor:
    """The square modulo a prime, three times."""
    start = number % _PRIME
    number = start
    for _ in range(3):
        number = (number * number + start + 1013904223) % _PRIME
    return number
