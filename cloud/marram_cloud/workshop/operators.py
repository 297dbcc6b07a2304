"""Operators of ours, which a trace keeps whole: what is many of PyTorch's and a single one of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_OPERATORS = torch.library.Library("marram", "DEF")


def define(name: str, signature: str, does: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """``torch.ops.marram.<name>``. It has no gradient of its own: an autograd.Function gives it."""
    _OPERATORS.define(f"{name}{signature}")
    _OPERATORS.impl(name, does, "CompositeExplicitAutograd")
    torch.library.register_fake(f"marram::{name}", fake, lib=_OPERATORS)
