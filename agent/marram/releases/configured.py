"""The model that the YAML names, and a copy of it in the state folder for when its file is damaged."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from marram.bundle.bare import open_model
from marram.bundle.description import Description
from marram.bundle.file import Bundle
from marram.errors import BundleError, StorageError
from marram.storage import replace_file

log = logging.getLogger(__name__)


class Copy(msgspec.Struct, frozen=True):
    """``configured.json``. source: the path in the YAML. sha256: hex, of the copy beside it."""

    source: str
    sha256: str


def open_configured(path: Path, description: Description | None, folder: Path) -> tuple[Bundle, str]:
    """(the model, why its copy had to be taken or ""). folder: of the copy.

    A file that cannot be read any more is replaced by the copy that an earlier start made of the same path.
    Raises BundleError when there is none.
    """
    copy, about = folder / f"configured{path.suffix}", folder / "configured.json"
    try:
        bundle = open_model(path, description)
    except BundleError as error:
        if _kept(about) != Copy(str(path), _digest(copy)):
            raise
        bundle = open_model(copy, description)
        log.error("%s; the copy from an earlier start runs instead", error)
        return bundle, f"{error}; the copy from an earlier start runs"
    try:
        now = Copy(str(path), _digest(path))
        if _kept(about) != now or _digest(copy) != now.sha256:
            replace_file(copy, path.read_bytes())
            replace_file(about, msgspec.json.encode(now))
    except (OSError, StorageError) as error:
        log.warning("no copy of %s could be kept: %s", path, error)
    return bundle, ""


def _kept(about: Path) -> Copy | None:
    try:
        return msgspec.json.decode(about.read_bytes(), type=Copy)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
