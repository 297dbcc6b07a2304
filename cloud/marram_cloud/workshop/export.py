"""From a pure PyTorch function to the bytes of an ONNX file with a dynamic batch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from marram_cloud.workshop import provenance
from marram_cloud.workshop.innermost import laid_out
from marram_cloud.workshop.provenance import Followed
from marram_cloud.workshop.translations import TRAINING, TRANSLATIONS, UnsupportedError, decompositions
from marram_cloud.workshop.unsupported import FIXED_BATCH, operator_of, reason, refused, too_long

BATCH = "batch"
OPSET = 18
_MOST_BATCH = 65536
# PyTorch's exporter takes some hundredths of a second for each.
_MOST_OPERATORS = 5000


def export(
    function: Callable[..., tuple[Tensor, ...]],
    arguments: dict[str, Tensor],
    outputs: Sequence[str],
    batched: Sequence[str],
    training: bool = False,
) -> bytes:
    """Trace ``function(**arguments)``. batched: the arguments whose first dimension is the batch. training:
    where nothing is to be quantised, so that operators may have the forms that are fastest in training.

    Raises UnsupportedError that names the operator, its line in the user's source and what to use instead.
    """
    names = list(arguments)

    def positional(*values: Tensor) -> tuple[Tensor, ...]:
        return function(**dict(zip(names, values, strict=True)))

    with _quiet():
        try:
            traced = _trace(positional, arguments, batched)
            _check(traced)
            program = _to_onnx(traced, arguments, outputs, batched, training)
        except Exception as error:
            raise UnsupportedError(_explained(error, positional, arguments, batched)) from error
    content: bytes = _plain(program).SerializeToString(deterministic=True)
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs tracebacks and advice of its own beside the exceptions that are explained here."""
    loggers = {
        "torch._subclasses.fake_tensor": logging.CRITICAL,
        "torch.export": logging.CRITICAL,
        "torch.fx.experimental.symbolic_shapes": logging.CRITICAL,
        "torch.onnx": logging.ERROR,
    }
    before = {name: logging.getLogger(name).level for name in loggers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name, level in loggers.items():
                logging.getLogger(name).setLevel(level)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def _trace(
    positional: Callable[..., tuple[Tensor, ...]], arguments: dict[str, Tensor], batched: Sequence[str],
    followed: Followed | None = None,
) -> GraphModule:  # fmt: skip
    """Into one graph of plain operators. followed: whose nodes know their places in the user's source."""

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        with followed.following() if followed is not None else contextlib.nullcontext():
            return positional(*values)

    return make_fx(run, decompositions(), tracing_mode="fake")(*_fakes(arguments, batched))


class _Sizes(ShapeEnv):
    """Of the batch, which may have any size all along."""

    def _set_replacement(self, a: Any, tgt: Any, msg: str) -> None:  # noqa: ANN401
        if tgt.is_number:
            raise UnsupportedError(FIXED_BATCH)
        super()._set_replacement(a, tgt, msg)


def _fakes(arguments: dict[str, Tensor], batched: Sequence[str]) -> list[Tensor]:
    """Tensors without data whose batch may have any size, and all else the size that it has."""
    # What the module holds and is no argument stays as it is: constants.
    mode = FakeTensorMode(shape_env=_Sizes(assume_static_by_default=True), allow_non_fake_inputs=True)
    fakes = []
    for name, value in arguments.items():
        sizes = [DimDynamic.STATIC] * value.ndim
        if name in batched:
            sizes[0] = DimDynamic.DUCK  # of equal size everywhere
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        fakes.append(mode.from_tensor(value, symbolic_context=context, source=ConstantSource(name)))
    return fakes


def _check(traced: GraphModule) -> None:
    """Raises UnsupportedError for a type of values that devices do not have, and for too many operators."""
    count = len(traced.graph.nodes)
    if count > _MOST_OPERATORS:
        place, why = provenance.commonest(traced), too_long(count)
        raise UnsupportedError(f"{place}: {why}" if place else why)
    for node in traced.graph.nodes:
        value = node.meta.get("val")
        why = refused(value.dtype) if isinstance(value, Tensor) else ""
        if why:
            place = provenance.of_node(node)
            raise UnsupportedError(f"{place}: {why}" if place else why)


def _explained(
    error: Exception, positional: Callable[..., tuple[Tensor, ...]], arguments: dict[str, Tensor],
    batched: Sequence[str],
) -> str:  # fmt: skip
    """Why, and where in the user's source: by another trace, which is followed."""
    followed = Followed()
    try:
        traced = _trace(positional, arguments, batched, followed)
    except Exception as again:
        place, why = provenance.of_error(again) or followed.place, reason(again, followed.function)
    else:
        try:
            _check(traced)
        except UnsupportedError as again:
            return str(again)
        place, why = provenance.of_operator(traced, operator_of(error)), reason(error)
    return f"{place}: {why}" if place else why


def _to_onnx(
    traced: GraphModule, arguments: dict[str, Tensor], outputs: Sequence[str], batched: Sequence[str],
    training: bool,
) -> onnx.ModelProto:  # fmt: skip
    batch = torch.export.Dim(BATCH, min=1, max=_MOST_BATCH)
    shapes = tuple({0: batch} if name in batched else None for name in arguments)
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
    model: onnx.ModelProto = program.model_proto
    return laid_out(model)


class _Positional(nn.Module):
    """torch.onnx.export wants a module; dynamic shapes then follow its one variadic argument."""

    def __init__(self, traced: GraphModule) -> None:
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
