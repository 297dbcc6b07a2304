"""A description for a model file, guessed from its tensors; what cannot be guessed says so."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from marram.inspection.child import Found
from marram.programs.program import Tensor

_UNKNOWN = 100
_IMAGE = (1, 3, 4)
_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}


def suggestion(path: Path, found: Found) -> list[str]:
    """Lines of YAML. The labels and channels are ours to count, but not to name."""
    state = _state(found)
    outputs = [one for one in found.outputs if one.name not in state.values()]
    constants = [one for one in found.inputs if one.name not in state and math.prod(_fixed(one)) == 1]
    windows = [one for one in found.inputs if one.name not in state and one not in constants]
    if not windows:
        return ["# It takes no window: a description cannot run it."]
    first = max(windows, key=lambda one: math.prod(_fixed(one)))
    layout, sizes = _layout(first)
    channels, length = sizes.get("channels", 1), sizes.get("length", 0)
    if not length:
        length = sizes["height"] * sizes["width"]
    width = sizes.get("width")
    parts = {one.name: _layout(one)[1].get("channels", 1) for one in windows}
    count = sum(parts.values()) if len(windows) > 1 else channels
    names = [f"c{number}" for number in range(count)]
    output = outputs[0] if outputs else found.outputs[0]
    again = len(windows) == 1 and _fixed(output) == _fixed(first) and len(output.shape) == len(first.shape)
    classes = output.shape[-1] if output.shape and isinstance(output.shape[-1], int) else 1
    lines = ["model:", f"  file: {quoted_path(path)}", "  description:", f"    name: {_name(path)}"]
    lines.append(f"    task: {'reconstruct' if again else 'classify'}")
    if not again:
        labels = ", ".join(f"label{number}" for number in range(max(classes, 2)))
        lines.append(f"    labels: [{labels}]  # name them")
    described = ", ".join(f"{{name: {name}}}" for name in names)
    lines.append(f"    channels: [{described}]  # as sensors name them")
    lines.append("    rate: 1  # samples a second")
    doubt = "  # a guess: the file leaves it open" if _open(first, layout) else ""
    lines += [f"    length: {length}{doubt}", f"    stride: {length}", f"    layout: [{', '.join(layout)}]"]
    if width is not None:
        lines.append(f"    width: {width}")
    if len(windows) > 1:
        lines.append(f"    inputs: {{{', '.join(_part(parts, names))}}}")
    elif state or constants:
        lines.append(f"    input: {_quoted(first.name)}")
    if state:
        fed = ", ".join(f"{_quoted(one)}: {_quoted(other)}" for one, other in state.items())
        lines.append(f"    state: {{{fed}}}")
    if constants:
        given = ", ".join(f"{_quoted(one.name)}: 0" for one in constants)
        lines.append(f"    constants: {{{given}}}  # what its maker says")
    if len(outputs) > 1:
        lines.append(f"    output: {_quoted(output.name)}")
    return lines


def _state(found: Found) -> dict[str, str]:
    """Inputs that take what an output gave: of one kind, and with names that belong together."""
    state: dict[str, str] = {}
    for one in found.inputs:
        for other in found.outputs:
            alike = one.dtype == other.dtype and len(one.shape) == len(other.shape) and one.shape
            sizes = zip(one.shape, other.shape, strict=False)
            fits = all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in sizes)
            if alike and fits and _belong(one.name, other.name) and other.name not in state.values():
                state[one.name] = other.name
                break
    return state


def _belong(name: str, other: str) -> bool:
    """Whether they are one name but for what says which is newer: h and hn, state and stateN."""
    words = r"(^|_)(new|next|out|output|in|input|prev)(_|$)"
    plain = [re.sub(words, "", one.lower()) for one in (name, other)]
    return bool(plain[0]) and (plain[0] == plain[1] or f"{plain[0]}n" == plain[1])


def _fixed(tensor: Tensor) -> tuple[int, ...]:
    """Without the first, which is the batch, unless that is all."""
    return tuple(size if isinstance(size, int) else _UNKNOWN for size in tensor.shape[1:])


def _layout(tensor: Tensor) -> tuple[tuple[str, ...], dict[str, int]]:
    sizes = _fixed(tensor)
    axes: tuple[str, ...]
    if len(sizes) == 3 and sizes[0] in _IMAGE:
        axes = ("channels", "height", "width")
    elif len(sizes) == 3 and sizes[2] in _IMAGE:
        axes = ("height", "width", "channels")
    elif len(sizes) == 2:
        axes = ("channels", "length") if sizes[0] <= sizes[1] else ("length", "channels")
    elif len(sizes) == 1:
        axes = ("length",)
    else:
        axes = ("channels", "length", *("one",) * (len(sizes) - 2))
    return ("batch", *axes), dict(zip(axes, sizes, strict=True))


def _open(tensor: Tensor, layout: tuple[str, ...]) -> bool:
    sizes = zip(layout, tensor.shape, strict=True)
    return any(not isinstance(size, int) for axis, size in sizes if axis in ("length", "height", "width"))


def _part(parts: dict[str, int], names: list[str]) -> list[str]:
    taken, lines = 0, []
    for name, count in parts.items():
        lines.append(f"{_quoted(name)}: [{', '.join(names[taken : taken + count])}]")
        taken += count
    return lines


def _name(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", path.stem.lower()).lstrip("._-")[:48] or "model"


def quoted_path(path: Path) -> str:
    """As YAML takes it."""
    return str(path) if re.fullmatch(r"[A-Za-z0-9_./][A-Za-z0-9_./ -]*", str(path)) else _in_quotes(str(path))


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in _WORDS
    return name if plain else _in_quotes(name)


def _in_quotes(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
