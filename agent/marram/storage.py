"""What must survive a power cut: SQLite files opened one way, and files replaced as a whole.

A database that SQLite itself finds damaged is put aside under another name, never deleted, and a new one
is begun: a device with a bad card sector goes on working and its operator can still look. A large database
is not read as a whole at every start, which takes long on a card: only after an unclean end, or when damage
was met in use.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from marram.errors import StorageError

_SMALL = 4 << 20  # bytes; what is no larger is checked at every start
_SUSPECT = "-suspect"

log = logging.getLogger(__name__)


def open_database(
    path: Path | str, schema: str, durable: bool = True, anew: bool = True
) -> sqlite3.Connection:
    """Open (or make) a database in WAL mode and run ``schema`` (idempotent SQL) on it.

    durable: every commit reaches the disk before it returns; else the last commits may be lost, but
    never the file's consistency. ``":memory:"`` gives a database without a file. The connection may be
    used by several threads, one at a time. anew: whether a damaged one is put aside and begun anew.
    Raises StorageError when the place cannot be written, or the file is damaged and may not be begun anew.
    """
    try:
        return _open(path, schema, durable)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) or isinstance(path, str):
            raise StorageError(f"{path}: cannot be opened: {error}") from error
        if not anew:
            raise StorageError(
                f"{path}: is damaged ({error}); bring back a copy of it, or move it away to begin without it"
            ) from error
        aside = _unused(path.with_name(f"{path.name}.damaged-{int(time.time())}"))
        try:
            for suffix in ("", "-wal", "-shm", _SUSPECT):
                part = path.with_name(path.name + suffix)
                if part.exists():
                    part.replace(aside.with_name(aside.name + suffix))
        except OSError as failure:
            raise StorageError(
                f"{path}: is damaged, and cannot be put aside: {failure.strerror}"
            ) from failure
        log.error("%s is damaged (%s); it was put aside as %s and begun anew", path, error, aside.name)
        return _open(path, schema, durable)


def _unused(path: Path) -> Path:
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain((path,), names) if not name.exists())


def _open(path: Path | str, schema: str, durable: bool) -> sqlite3.Connection:
    if isinstance(path, Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent}: cannot be made: {error.strerror}") from error
    check = isinstance(path, Path) and _to_be_checked(path)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        prepare(database, schema, durable, check)
        # One that SQLite only reads, for its rights or a newer format, is to be noticed here and not in use.
        database.executescript("BEGIN; PRAGMA user_version = 0; ROLLBACK")
        if check:
            with suppress(OSError):
                Path(f"{path}{_SUSPECT}").unlink(missing_ok=True)
    except BaseException:
        database.close()
        raise
    return database


def _to_be_checked(path: Path) -> bool:
    def size(suffix: str) -> int:
        try:
            return Path(f"{path}{suffix}").stat().st_size
        except OSError:
            return -1

    # Whoever closes a database well takes its log away.
    return size("") <= _SMALL or size("-wal") > 0 or size(_SUSPECT) >= 0


def prepare(database: sqlite3.Connection, schema: str, durable: bool = True, check: bool = False) -> None:
    """Set the pragmas and run the schema on an open connection. check: read all of it first."""
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    database.execute("PRAGMA cache_size=-512")
    if check and database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("its pages do not fit together")
    database.executescript(schema)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of the block's statements, or none. Raises StorageError when the disk is full, gone or damaged."""
    try:
        database.execute("BEGIN IMMEDIATE")
        yield database
        database.execute("COMMIT")
    except BaseException as error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        if type(error) is sqlite3.DatabaseError:
            _suspect(database)
        if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
            raise StorageError(f"state could not be written: {error}") from error
        raise


def _suspect(database: sqlite3.Connection) -> None:
    """Have the database checked when it is opened next."""
    with suppress(OSError, sqlite3.Error):
        name = database.execute("PRAGMA database_list").fetchone()[2]
        if name:
            Path(f"{name}{_SUSPECT}").touch()


def hold_folder(folder: Path, user: str) -> IO[bytes]:
    """Be the only ``user`` ("agent" ...) of a state folder, until the file is closed or the process ends.

    Raises StorageError when another one holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise StorageError(f"{folder}: cannot be used as a state folder: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            text = f"another {user} uses this state folder; stop it, or give this one a folder of its own"
            raise StorageError(f"{folder}: {text}") from error
        raise StorageError(f"{folder}: cannot be locked: {error.strerror}") from error
    return file


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a whole file so that a power cut leaves the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    sync_folder(path.parent)


def clear_unfinished(folder: Path) -> None:
    """Take away what power cuts left of files below ``folder`` that ``replace_file`` was writing."""
    for path in folder.rglob(".*.new"):
        with suppress(OSError):
            path.unlink()


def create_file(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Write a whole new file, as ``replace_file``; False, and nothing done, when there is one already."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.first")
    replace_file(temporary, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
