"""From a pure PyTorch function to the bytes of an ONNX file with a dynamic batch."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from marram_cloud.workshop.innermost import laid_out
from marram_cloud.workshop.translations import TRAINING, TRANSLATIONS, UnsupportedError, decompositions

_OPERATOR = re.compile(r"op='([\w.]+)'")
_SUPPORTED = (
    "docs/bundles.md lists what a module may use: Linear, Embedding, convolutions and their transposes, GRU, "
    "attention, pooling, normalisations, Dropout and element-wise functions, on whole batches"
)
BATCH = "batch"
OPSET = 18
_MOST_BATCH = 65536


def export(
    function: Callable[..., tuple[Tensor, ...]],
    arguments: dict[str, Tensor],
    outputs: Sequence[str],
    batched: Sequence[str],
    training: bool = False,
) -> bytes:
    """Trace ``function(**arguments)``. batched: the arguments whose first dimension is the batch. training:
    where nothing is to be quantised, so that operators may have the forms that are fastest in training.

    Raises UnsupportedError that names the operator when something cannot be exported.
    """
    names = list(arguments)

    def positional(*values: Tensor) -> tuple[Tensor, ...]:
        return function(**dict(zip(names, values, strict=True)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Torch logs a traceback of its own beside the exception that is explained here.
        logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
        try:
            traced = make_fx(positional, decompositions(), tracing_mode="fake")(*_fakes(arguments, batched))
        except Exception as error:
            raise UnsupportedError(_why(error)) from error
        program = _to_onnx(traced, arguments, outputs, batched, training)
    content: bytes = _plain(program).SerializeToString(deterministic=True)
    return content


def _fakes(arguments: dict[str, Tensor], batched: Sequence[str]) -> list[Tensor]:
    """Tensors without data whose batch may have any size, and all else the size that it has."""
    # What the module holds and is no argument stays as it is: constants.
    mode = FakeTensorMode(shape_env=ShapeEnv(assume_static_by_default=True), allow_non_fake_inputs=True)
    fakes = []
    for name, value in arguments.items():
        sizes = [DimDynamic.STATIC] * value.ndim
        if name in batched:
            sizes[0] = DimDynamic.DUCK  # of equal size everywhere
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        fakes.append(mode.from_tensor(value, symbolic_context=context, source=ConstantSource(name)))
    return fakes


def _to_onnx(
    traced: torch.fx.GraphModule, arguments: dict[str, Tensor], outputs: Sequence[str],
    batched: Sequence[str], training: bool,
) -> onnx.ModelProto:  # fmt: skip
    batch = torch.export.Dim(BATCH, min=1, max=_MOST_BATCH)
    shapes = tuple({0: batch} if name in batched else None for name in arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            _Positional(traced).eval(),
            tuple(arguments.values()),
            dynamo=True,
            input_names=list(arguments),
            output_names=list(outputs),
            dynamic_shapes=(shapes,),
            custom_translation_table={**TRANSLATIONS, **(TRAINING if training else {})},
            opset_version=OPSET,
            verbose=False,
        )
    except Exception as error:
        raise UnsupportedError(_why(error)) from error
    model: onnx.ModelProto = program.model_proto
    return laid_out(model)


class _Positional(nn.Module):
    """torch.onnx.export wants a module; dynamic shapes then follow its one variadic argument."""

    def __init__(self, traced: torch.fx.GraphModule) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, *values: Tensor) -> Any:  # noqa: ANN401
        return self.traced(*values)


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without stack traces, paths and comments: smaller, and the same on every machine."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "marram", ""
    del model.metadata_props[:]
    parts: list[Any] = [model.graph, *model.functions]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    return model


def _why(error: BaseException) -> str:
    """The innermost reason that a person can act on."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnsupportedError):
            return str(seen)
        if type(seen).__name__ == "DispatchError":
            named = _OPERATOR.search(str(seen))
            return f"no ONNX form of {named[1] if named else 'an operator'} is known: {_SUPPORTED}"
        if type(seen).__name__ == "GuardOnDataDependentSymNode":
            return (
                "forward decides by the values of its input, which cannot be traced: compute both ways and "
                "choose with torch.where"
            )
        seen = seen.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the module cannot be exported: {lines[0]}: {_SUPPORTED}"
