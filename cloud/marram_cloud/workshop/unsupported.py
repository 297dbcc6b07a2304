"""Why something cannot be exported, in words that a person can act on, and what to use instead.

Tables of our own experience: by the operator that has no form in ONNX, by the function of PyTorch that cannot
be traced, and by what PyTorch itself says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from marram_cloud.workshop.translations import UnsupportedError

FIXED_BATCH = (
    "this asks for one fixed size of the batch: work on whole batches of any size, without a loop over the "
    "windows, and with x.shape[0] as it is in place of len(x), int() or range() of it"
)
_BY_VALUE = (
    "this decides by the values of its input, which cannot be traced: compute both ways and choose with "
    "torch.where"
)
_COMPLEX = (
    "complex numbers have no form on a device: use a Conv1d that holds sines and cosines for a spectrum"
)
_HALF = (
    "half precision has no form on a device, where int8 is made of float32: leave out half, bfloat16 and "
    "autocast, and use float32"
)
_ELSEWHERE = (
    "this leaves PyTorch, so it cannot be traced: use functions of torch in place of numpy, tolist and item"
)
_INTERPOLATE = "ConvTranspose1d or ConvTranspose2d, or repeat_interleave with a Conv after it"
_ORDER = "torch.sort or torch.topk"
_STATISTIC = "amax, mean, var or logsumexp"
_MATRICES = "sums and products; decompositions of matrices are not there"
_PLACES = "torch.where, torch.cat, torch.stack or nn.functional.pad, which make a new tensor"
_CHANCE = "nn.Dropout, the only chance that there is"
_SPECTRUM = "a Conv1d that holds sines and cosines"
_SMOOTH = "tanh, erf, exp, log or another of the usual functions"
_BY_OPERATOR = {
    "_adaptive_avg_pool": "AvgPool with a fixed kernel, or AdaptiveAvgPool to 1",
    "_cdist": "the root of squared differences: (a[:, :, None] - b[:, None]).square().sum(3).sqrt()",
    "_embedding_bag": "nn.Embedding and a mean over it",
    "_fft": _SPECTRUM,
    "_linalg": _MATRICES,
    "_upsample": _INTERPOLATE,
    "adaptive_max_pool": "MaxPool with a fixed kernel, or amax over the axis",
    "as_strided": _PLACES,
    "avg_pool3d": "AvgPool1d or AvgPool2d",
    "bernoulli": _CHANCE,
    "bessel": _SMOOTH,
    "bincount": _STATISTIC,
    "cummax": "amax over the whole axis, or MaxPool",
    "cummin": "amin over the whole axis, or MaxPool of what is negated",
    "cumprod": "exp of the cumsum of logarithms",
    "erf_inv": _SMOOTH,
    "fractional_max_pool": "MaxPool",
    "grid_sampler": _INTERPOLATE,
    "histc": _STATISTIC,
    "kthvalue": _ORDER,
    "lgamma": _SMOOTH,
    "linalg": _MATRICES,
    "max_pool3d": "MaxPool1d or MaxPool2d",
    "median": _ORDER,
    "mode": _ORDER,
    "multinomial": _CHANCE,
    "nanmedian": _ORDER,
    "prod": "exp of the sum of logarithms",
    "rand": _CHANCE,
    "searchsorted": "a comparison with each boundary: (x[..., None] > boundaries).sum(-1)",
    "upsample": _INTERPOLATE,
}
_BY_FUNCTION = {
    "bilinear": "torch.einsum with a parameter of your own",
    "cholesky": _MATRICES,
    "complex": "pairs of real numbers",
    "fft_": _SPECTRUM,
    "interpolate": _INTERPOLATE,
    "istft": _SPECTRUM,
    "linalg_": _MATRICES,
    "numpy": "functions of torch",
    "one_hot": "a comparison: (index[..., None] == torch.arange(classes)).float()",
    "stft": _SPECTRUM,
    "upsample": _INTERPOLATE,
}
_BY_MESSAGE = {
    "data pointer": _ELSEWHERE,
    "'numpy'": _ELSEWHERE,
    "saved tensor hooks": "use the module itself, without torch.utils.checkpoint: a program is traced whole",
    "setup_context": (
        "this autograd.Function has another form than torch.func takes: use a forward without ctx, and a "
        "setup_context beside it"
    ),
}
_ELSE = (
    "docs/bundles.md lists what a module may use: Linear, Embedding, convolutions and their transposes, GRU, "
    "LSTM, attention, pooling, normalisations, Dropout and element-wise functions, on whole batches"
)
_OPERATORS = (re.compile(r"op='([\w.]+)'"), re.compile(r"target=torch\.ops\.(\w+\.\w+)"))
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def operator_of(error: BaseException) -> str:
    """The operator ("aten.sort") that an exporter's error is about; "" where it says none."""
    for one in _chain(error):
        for pattern in _OPERATORS if type(one).__module__.startswith("torch") else ():
            if named := pattern.search(str(one)):
                return named[1]
    return ""


def reason(error: BaseException, function: str = "") -> str:
    """What is in the way, and what to use instead. function: that of PyTorch which was called last."""
    if instead := _longest(_BY_FUNCTION, function):
        return f"{function} has no form on a device: use {instead}"
    for one in _chain(error):
        if isinstance(one, UnsupportedError):
            return str(one)
        if type(one).__name__ == "GuardOnDataDependentSymNode":
            return _BY_VALUE
        for part, said in _BY_MESSAGE.items():
            if part in str(one):
                return said
    if operator := operator_of(error):
        instead = _longest(_BY_OPERATOR, operator.partition(".")[2])
        return f"{operator} has no form on a device: {f'use {instead}' if instead else _ELSE}"
    text = _COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return f"this cannot be exported ({text[0]}): {_ELSE}"


def refused(dtype: torch.dtype) -> str:
    """Why no value of this type may be in a program; "" if it may."""
    if dtype.is_complex:
        return _COMPLEX
    return _HALF if dtype in (torch.float16, torch.bfloat16) else ""


def too_long(operators: int) -> str:
    """Why a trace of so many operators is not exported: that would take many minutes, or for ever."""
    return (
        f"a trace of this module has {operators} operators, most of them from here: use nn.GRU or nn.LSTM "
        "over the whole window in place of a loop over its steps, or operators on whole tensors"
    )


def _longest(table: dict[str, str], name: str) -> str:
    """What the table says of the longest beginning of a name that it knows."""
    known = [begin for begin in table if name.startswith(begin)]
    return table[max(known, key=len)] if known else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
