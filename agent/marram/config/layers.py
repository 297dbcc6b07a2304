"""The layers of a configuration, from the lowest: bases, the file, conf.d, environment, command line.

A file names its bases in ``extends``: paths from its own folder, or names of files in the folders ``boards``
and ``sites`` beside it, above it, or of the package. ``marram.config.merge`` says how layers become one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from marram.config import nodes
from marram.config.expected import did_you_mean, found
from marram.config.flatten import MAX_VALUES, TooManyValuesError, flatten
from marram.config.merge import Merger
from marram.config.nodes import Node, Scalar, Sequence, UnreadableError, compose, entry, is_nothing
from marram.config.problems import InvalidConfigError, Key, Problem, Source, printable
from marram.config.problems import Path as KeyPath
from marram.config.versions import KEY as VERSION
from marram.config.versions import outdated
from marram.errors import ConfigError

MAX_BYTES = 1 << 20
MOST_FILES = 64
SHIPPED = Path("/usr/share/marram/firmware_configs")
PREFIX = "MARRAM__"

EXTENDS = "extends"
_KINDS = ("boards", "sites")
_ENDINGS = (".yaml", ".yml")
_STEP = re.compile(r'"(?P<quoted>[^"]*)"|\[(?P<index>\d+)\]|(?P<plain>[^."\[\]]+)')


@dataclass(frozen=True, slots=True)
class Over:
    """What stands above the files. environment: by variable. sets: ``KEY=VALUE``, as on the command line."""

    environment: Mapping[str, str] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """All layers as one tree. sources: where they came from, the lowest first. files: those of the sources
    that are files. problems: keys that stand twice and the like, to be told with all others."""

    root: nodes.Mapping
    sources: tuple[Source, ...]
    files: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()


def read_alone(path: Path) -> Merged:
    """One file without layers. Raises ConfigError (InvalidConfigError, where the text is at fault)."""
    source = Source(str(path), read_text(path), path.absolute().parent)
    root, problems = tree(source)
    return Merged(root, (source,), (path,), tuple(problems))


def read_layers(path: Path, over: Over) -> Merged:
    """All layers of a main file. Raises ConfigError (InvalidConfigError, where a text is at fault)."""
    reader = _Reader()
    bases = _Stack()
    main = reader.file(path, bases, ())
    drop_ins = [reader.file(one, bases, ()) for one in conf_d(path)]
    files = [*bases.files, path, *conf_d(path)]
    layers = [*bases.trees, main, *drop_ins]
    merger = Merger()
    root: Node = layers[0]
    for layer in layers[1:]:
        root = merger.merge(root, layer)
    sources = [layer.source for layer in layers]
    for source, steps, folded in reader.settings(over):
        value = reader.value(source)
        if value is not None:
            sources.append(source)
            root = merger.put(root, steps, value, folded)
    if reader.problems or merger.problems:
        raise InvalidConfigError(reader.problems + merger.problems)
    assert isinstance(root, nodes.Mapping)
    # What is missing in all layers is missing in the main file.
    whole = nodes.Mapping(main.source, main.line, main.column, root.entries)
    return Merged(whole, tuple(sources), tuple(files), tuple(reader.doubled))


def files_of(path: Path) -> list[Path]:
    """The files of all layers, the lowest first, whatever is wrong with what they say. Raises ConfigError."""
    reader, bases = _Reader(), _Stack()
    drop_ins = conf_d(path)
    for one in (path, *drop_ins):
        reader.file(one, bases, ())
    return [*bases.files, path, *drop_ins]


def conf_d(path: Path) -> list[Path]:
    """The drop-ins beside a main file, in their order. Raises ConfigError."""
    folder = path.parent / "conf.d"
    try:
        found = [one for one in folder.iterdir() if one.suffix in _ENDINGS and one.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from error
    for one in found:
        if one.is_fifo() or one.is_socket() or one.is_char_device():
            raise ConfigError(f"{one} is no file: take it out of {folder}")  # to read it could take for ever
    return sorted(found, key=lambda one: one.name)


def read_text(path: Path) -> str:
    """A file's text. Raises ConfigError (InvalidConfigError, where it is not UTF-8)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder: name the YAML file in it") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: write it, or name another file with --config") from error
    except OSError as error:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "error")
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 10} KiB: this is not a configuration file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        begin = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[begin : error.start].decode("utf-8", "replace")) + 1
        message = f"expected UTF-8 text, found the byte 0x{data[error.start]:02x}: save the file as UTF-8"
        source = Source(str(path), "", path.parent)
        raise InvalidConfigError([Problem(source, line, column, (), message)]) from error


def tree(source: Source) -> tuple[nodes.Mapping, list[Problem]]:
    """A text's whole mapping, empty for an empty text, and what ``flatten`` finds in it.

    Raises InvalidConfigError.
    """
    try:
        root = compose(source)
        if root is None or is_nothing(root):
            return nodes.Mapping(source, 1, 1), []
        flat, problems = flatten(root)
    except UnreadableError as error:
        raise InvalidConfigError([error.problem]) from error
    except TooManyValuesError as error:
        message = f"expected at most {MAX_VALUES} values, found more once the aliases are followed"
        raise InvalidConfigError([Problem(source, 1, 1, (), message)]) from error
    if not isinstance(flat, nodes.Mapping):
        message = f"expected a mapping (key: value), found {found(flat)}"
        raise InvalidConfigError([Problem(source, flat.line, flat.column, (), message)])
    return flat, problems


@dataclass
class _Stack:
    """The bases so far, the lowest first; each stands once, where it was first asked for."""

    trees: list[nodes.Mapping] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    known: set[Path] = field(default_factory=set)


class _Reader:
    """Reads layers; ``problems`` holds what is wrong with ``extends``, ``version`` and the settings,
    ``doubled`` what ``flatten`` finds."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.doubled: list[Problem] = []
        self._rank = 0

    def file(self, path: Path, bases: _Stack, chain: tuple[Path, ...]) -> nodes.Mapping:
        """The file's own tree; its bases are put on the stack. chain: the files that led here."""
        rank = -self._next_rank() if chain else self._next_rank()
        source = Source(str(path), read_text(path), path.absolute().parent, rank)
        root, doubled = tree(source)
        self.doubled += doubled
        self.problems += outdated(root)
        for node in self._bases(root):
            self._base(node, bases, (*chain, path))
        own = [(key, value) for key, value in root.entries if key.value not in (EXTENDS, VERSION)]
        return nodes.Mapping(source, root.line, root.column, own)

    def settings(self, over: Over) -> Iterable[tuple[Source, list[Key], bool]]:
        """What the environment and the command line set: the text, the way to the key, whether folded."""
        for name, value in sorted(over.environment.items()):
            if name.startswith(PREFIX):
                steps: list[Key] = [*name[len(PREFIX) :].lower().split("__")]
                source = self._setting(f"environment {printable(name)}", value)
                if not all(steps):
                    self._bad(source, f"expected a name such as {PREFIX}DEVICE__NAME")
                elif self._allowed(source, steps):
                    yield source, steps, True
        for text in over.sets:
            key, equals, value = text.partition("=")
            source = self._setting(f"--set {printable(key)}", value)
            way = _steps(key)
            if not equals or not way:
                self._bad(source, "expected KEY=VALUE such as device.name=press-07 or sensors.watch.rate=5")
            elif self._allowed(source, way):
                yield source, way, False

    def _allowed(self, source: Source, steps: list[Key]) -> bool:
        if steps[0] in (EXTENDS, VERSION):
            self._bad(source, "only a file can say this", (steps[0],))
            return False
        return True

    def value(self, source: Source) -> Node | None:
        """What a setting's text says as YAML, or None and a problem."""
        try:
            node = compose(source)
            if node is None:
                return Scalar(source, 1, 1, "", "null", True)
            value, doubled = flatten(node)
            self.doubled += doubled
            return value
        except UnreadableError as error:
            self.problems.append(error.problem)
        except TooManyValuesError:
            self._bad(source, f"expected at most {MAX_VALUES} values")
        return None

    def _setting(self, name: str, value: str) -> Source:
        return Source(name, value, Path.cwd(), self._next_rank(), lines=False)

    def _next_rank(self) -> int:
        self._rank += 1
        return self._rank

    def _bad(self, at: Node | Source, message: str, path: KeyPath = ()) -> None:
        if isinstance(at, Source):
            self.problems.append(Problem(at, 1, 1, path, message))
        else:
            self.problems.append(Problem(at.source, at.line, at.column, path, message))

    def _bases(self, root: nodes.Mapping) -> list[Scalar]:
        node = entry(root, EXTENDS)
        if node is None:
            return []
        listed = node.items if isinstance(node, Sequence) else [node]
        bases = [one for one in listed if isinstance(one, Scalar) and one.tag == "str" and one.value]
        for one in listed:
            if one not in bases:
                self._bad(
                    one,
                    f"expected the name or the path of a file, or a list of them, found {found(one)}",
                    (EXTENDS,),
                )
        return bases

    def _base(self, node: Scalar, bases: _Stack, chain: tuple[Path, ...]) -> None:
        path = self._find(node)
        if path is None:
            return
        same = path.resolve()
        led_here = [one.resolve() for one in chain]
        if same in led_here:
            circle = " -> ".join(str(one) for one in (*chain[led_here.index(same) :], path))
            self._bad(node, f"a file may not extend itself: {circle}", (EXTENDS,))
        elif len(chain) + len(bases.known) > MOST_FILES:
            self._bad(node, f"expected at most {MOST_FILES} files, found more", (EXTENDS,))
        elif same not in bases.known:
            bases.known.add(same)
            base = self.file(path, bases, chain)
            bases.trees.append(base)
            bases.files.append(path)

    def _find(self, node: Scalar) -> Path | None:
        name, folder = node.value, Path(node.source.name).parent
        if "/" in name or name.endswith(_ENDINGS):
            try:
                path = folder / Path(name).expanduser()
                if path.is_file():
                    return path
                message = f"the file {path} does not exist"
            except (OSError, RuntimeError, ValueError) as error:
                message = f"the file {printable(name)} cannot be looked for: {error}"
            self._bad(node, message, (EXTENDS,))
            return None
        places = [base / kind for base in (folder, folder.parent, SHIPPED) for kind in _KINDS]
        candidates = [place / f"{name}{ending}" for place in places for ending in _ENDINGS]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        known = [one.stem for place in places if place.is_dir() for one in place.iterdir()]
        hint = did_you_mean(name, known) or f"; looked in {', '.join(dict.fromkeys(map(str, places)))}"
        self._bad(node, f"there is no board or site {printable(name)!r}{hint}", (EXTENDS,))
        return None


def _steps(key: str) -> list[Key]:
    """``sensors[0].rate`` as its steps; none when it is not written so."""
    steps: list[Key] = []
    at = 0
    while at < len(key):
        match = _STEP.match(key, at)
        if match is None:
            return []
        steps.append(match["index"] or match["quoted"] or match["plain"] or "")
        at = match.end()
        if key[at : at + 1] == ".":
            at += 1
        elif at < len(key) and key[at] != "[":
            return []
    return steps if all(steps) and not key.endswith(".") else []
