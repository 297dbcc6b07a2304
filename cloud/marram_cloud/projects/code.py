"""``model.py``, the author's own code: run as Python runs a script, but in its folder.

So the files and modules beside it are found by their names, wherever the command was given.
"""

from __future__ import annotations

import contextlib
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from marram_cloud.projects.errors import ProjectError

FILE = "model.py"
# What the author's code may end in: it may call sys.exit, but Ctrl-C is the user's.
Failure = (Exception, SystemExit)


@dataclass(frozen=True)
class Place:
    """A line of the author's source."""

    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}, line {self.line}: {text}"


def innermost(error: BaseException, authors: Callable[[str], bool]) -> Place | None:
    """Where an exception came from: the innermost line in a file that is the author's."""
    frames = traceback.extract_tb(error.__traceback__)
    return next(
        (Place(one.filename, one.lineno or 0) for one in reversed(frames) if authors(one.filename)), None
    )


class Code:
    """What a project's ``model.py`` defines.

    gives: what its functions should give, for people. product: the type of that, where it can be called too,
    and so be taken for such a function.
    """

    def __init__(self, folder: Path, gives: str, product: type | tuple[()] = ()) -> None:
        """Run the file. Raises ProjectError."""
        self.path, self._gives, self._product = folder / FILE, gives, product
        if not self.path.is_file():
            raise ProjectError(f"{self.path}: is no file; it should define model() -> {gives}")
        self._folder = folder.resolve()
        spec = importlib.util.spec_from_file_location("marram_project", self._folder / FILE)
        assert spec is not None and spec.loader is not None
        # Registered as any module, for dataclasses and pickles look for their own.
        self._module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        with self._run(""):
            spec.loader.exec_module(self._module)

    def defines(self, name: str) -> bool:
        """Whether there is something of this name."""
        return hasattr(self._module, name)

    def made(self, name: str) -> object:
        """What the function of this name gives. Raises ProjectError."""
        function = getattr(self._module, name, None)
        if not callable(function) or isinstance(function, self._product):
            found = "" if function is None else f", and {name} is a {type(function).__name__}"
            raise ProjectError(f"{self.path}: should define {name}() -> {self._gives}{found}")
        with self._run(f"{name}(): "):
            return function()

    @contextlib.contextmanager
    def _run(self, what: str) -> Iterator[None]:
        folder = str(self._folder)
        with contextlib.chdir(self._folder), patch.object(sys, "argv", [FILE]):
            sys.path.insert(0, folder)
            try:
                yield
            except Failure as error:
                raise ProjectError(f"{self.path}: {what}{said(error)}{self._place(error)}") from error
            finally:
                with contextlib.suppress(ValueError):
                    sys.path.remove(folder)

    def _place(self, error: BaseException) -> str:
        place = innermost(error, self._authors)
        return f" ({place})" if place is not None else ""

    def _authors(self, file: str) -> bool:
        """Below the folder, but for an environment in it."""
        path = Path(file)
        return path.is_relative_to(self._folder) and "site-packages" not in path.parts


def said(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
