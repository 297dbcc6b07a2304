"""Which line of the user's source an operator of a traced program comes from.

The user's source is ``model.py`` and what it imports, but for libraries and our own code. A layer that
PyTorch brings is where it was made, so that those of a ``nn.Sequential`` can be told apart.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import sysconfig
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx import traceback as fx_traceback
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from marram_cloud.projects.code import Place, innermost

_OURS = str(Path(__file__).resolve().parents[1])
_LIBRARIES = (
    *(
        str(Path(sysconfig.get_path(name)).resolve())
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    str(Path(torch.__file__).resolve().parent),
    _OURS,
)
_KEY = "place"
# What PyTorch does itself: to look at an attribute, to leave a gradient.
_ON_THE_WAY = {"__get__", "_set_grad_enabled"}


def of_error(error: BaseException) -> Place | None:
    """Where in the user's source an exception came from: the innermost line of it."""
    return innermost(error, _users)


_made: weakref.WeakKeyDictionary[nn.Module, Place] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def modules_remembered() -> Iterator[None]:
    """Modules that are made within know the line that made them."""
    first = nn.Module.__init__

    def init(self: nn.Module, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        first(self, *arguments, **options)
        place = _here(sys._getframe(1))
        if place is not None:
            _made[self] = place

    with patch.object(nn.Module, "__init__", init):
        yield


class Followed(TorchFunctionMode):
    """Within, the nodes of a trace know their places, those of the gradient too.

    place, function: of what was done last, and the name of PyTorch's function that did it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.place: Place | None = None
        self.function = ""
        self._running: list[nn.Module] = []

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """An exception leaves ``place`` where it happened."""
        before = hooks.register_module_forward_pre_hook(lambda module, _: self._running.append(module))
        after = hooks.register_module_forward_hook(lambda *_: self._ended())
        try:
            with fx_traceback.preserve_node_meta(), self:
                yield
        finally:
            before.remove()
            after.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        name = getattr(func, "__name__", "")
        if name in _ON_THE_WAY:
            return func(*args, **(kwargs or {}))
        since, place = torch.autograd._get_sequence_nr(), self._now(sys._getframe(1))
        self._at(place, name)
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self._mark(one.grad_fn, since, place, name)
        return made

    def _ended(self) -> None:
        self._running.pop()

    def _now(self, frame: types.FrameType) -> Place | None:
        running = self._running[-1] if self._running else None
        code = getattr(type(running).forward, "__code__", None) if running is not None else None
        if running is not None and code is not None and not _users(code.co_filename):
            return _made.get(running) or _here(frame)
        return _here(frame)

    def _at(self, place: Place | None, name: str) -> None:
        self.place, self.function = place, name
        fx_traceback.current_meta["custom"] = {_KEY: place}

    def _mark(self, node: Any, since: int, place: Place | None, name: str) -> None:  # noqa: ANN401
        """The gradient of what was made since has its place."""
        waiting, marked = [node], set()
        while waiting:
            one = waiting.pop()
            if one is not None and one not in marked and since <= one._sequence_nr() < sys.maxsize:
                marked.add(one)
                one.register_prehook(lambda _: self._at(place, name))
                waiting += [follower for follower, _ in one.next_functions]


def of_node(node: Node) -> Place | None:
    """Of a followed trace."""
    place: Place | None = node.meta.get("custom", {}).get(_KEY)
    return place


def commonest(traced: GraphModule) -> Place | None:
    """The place that most nodes of a followed trace come from."""
    places = Counter(place for node in traced.graph.nodes if (place := of_node(node)) is not None)
    return max(places, key=places.__getitem__) if places else None


def of_operator(traced: GraphModule, operator: str) -> Place | None:
    """Where the first such operator ("aten.sort") of a followed trace comes from.

    What the exporter itself makes of a change in place, or of a diagonal, is not in the trace: then it is the
    first such node.
    """
    nodes = list(traced.graph.nodes)
    named = [node for node in nodes if str(node.target).startswith(f"{operator}.")]
    hidden = [node for node in nodes if _changes(node) or "diagonal" in str(node.target)]
    return next((place for node in named or hidden if (place := of_node(node)) is not None), None)


def _changes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _here(frame: types.FrameType | None) -> Place | None:
    """The innermost line of the user's source that our own code has called."""
    found: Place | None = None
    while frame is not None:
        file = frame.f_code.co_filename
        if found is None and _users(file):
            found = Place(file, frame.f_lineno)
        elif found is not None and _resolved(file).startswith(_OURS):
            return found
        frame = frame.f_back
    return None


def _users(file: str) -> bool:
    return bool(file) and not file.startswith("<") and not _resolved(file).startswith(_LIBRARIES)


@functools.cache
def _resolved(file: str) -> str:
    return str(Path(file).resolve())
