"""The TUF client (The Update Framework, specification 1.0.33): python-tuf's, made to survive power cuts.

Beside what ``tuf.ngclient`` does: metadata is on disk before it counts, time comes from the caller, targets
are put together in place from pieces that the device has already and never pass through /tmp.
This module imports tuf (25 MiB): only short-lived children do so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from marram.errors import MarramError, StorageError, WireError
from marram.releases.pieces import Spool
from marram.releases.talk import Timekeepers
from marram.releases.transport import MissingFileError, Transport, TransportError
from marram.storage import replace_file, sync_folder
from marram.wire import patch, pieces
from marram.wire.pieces import Index

_MAX_INDEX = 8 << 20
_MAX_PATCH = 16 << 20
_TRIES = 3


class UntrustedError(MarramError):
    """What the repository holds is not what its keys signed, or is too old."""


class Client:
    """One look at a repository. metadata: local folder. now: Unix seconds that metadata is judged by.

    metadata_base, target_base: what file names are put behind. root: the factory root; None for the root.json
    that is in ``metadata`` already.
    """

    def __init__(
        self,
        metadata: Path,
        metadata_base: str,
        target_base: str,
        transport: Transport,
        now: float,
        root: bytes | None,
        max_root_rotations: int = 256,
    ) -> None:
        config = UpdaterConfig(max_root_rotations=max_root_rotations)
        self._target_base, self._transport = target_base, transport
        self._now = datetime.fromtimestamp(now, UTC)
        with _Explained(self._now):
            metadata.mkdir(parents=True, exist_ok=True)
            self._updater = _DurableUpdater(
                str(metadata), metadata_base, fetcher=_Fetcher(transport), config=config, bootstrap=root
            )
        self._updater.judge_at(self._now)

    def doubt(self, believed: Timekeepers, clock: float) -> None:
        """Judge by ``clock`` (Unix s) should it turn out that these were replaced."""
        self._updater.doubt(believed, datetime.fromtimestamp(clock, UTC))

    @property
    def timekeepers(self) -> Timekeepers:
        """Who may sign the timestamp."""
        return self._updater.timekeepers

    def refresh(self) -> None:
        """Fetch and verify what is new. Raises TransportError, UntrustedError, StorageError."""
        with _Explained(self._now):
            self._updater.refresh()

    def target(self, path: str) -> TargetFile | None:
        """What the signed metadata says of a target; None when it has none. Raises as ``refresh``."""
        with _Explained(self._now):
            return self._updater.get_targetinfo(path)

    @property
    def signed_at(self) -> float:
        """When the newest timestamp was signed, Unix seconds; 0 where the repository does not tell."""
        told = self._updater.timestamp_fields().get("marram_time")
        try:
            return datetime.fromisoformat(told).timestamp() if isinstance(told, str) else 0.0
        except ValueError:
            return 0.0

    @property
    def expires(self) -> float:
        """When the newest timestamp expires, Unix seconds."""
        return self._updater.timestamp_expires().timestamp()

    def small(self, info: TargetFile, most: int) -> bytes:
        """The content of a small target, verified. Raises as ``refresh``."""
        if info.length > most:
            raise UntrustedError(f"{info.path}: is {info.length} bytes, at most {most} are expected")
        with _Explained(self._now):
            data = b"".join(self._transport.whole(self._url(info), info.length))
            info.verify_length_and_hashes(data)
        return data

    def index(self, path: str, size: int) -> Index | None:
        """The pieces of a target, None when the repository has no index of it. Raises as ``refresh``."""
        info = self.target(f"{path}.pieces")
        if info is None:
            return None
        try:
            return pieces.read_index(self.small(info, _MAX_INDEX), size)
        except WireError as error:
            raise UntrustedError(f"{path}.pieces: {error}") from error

    def patched(self, info: TargetFile, target: Path, held: Sequence[Path]) -> int | None:
        """Put a target together at ``target`` by a signed patch of a held file: bytes that were fetched.

        None when the repository has no patch of these files, or it does not lead to the target. Raises as
        ``refresh``.
        """
        for path in held:
            found = self._patch_of(path, info)
            if found is None:
                continue
            base, signed = found
            content = self.small(signed, _MAX_PATCH)
            try:
                made = patch.apply(base, content, info.length)
                info.verify_length_and_hashes(made)
            except (WireError, RepositoryError, MemoryError):
                continue  # another way is left, which takes less memory
            replace_file(target, made)
            return len(content)
        return None

    def _patch_of(self, path: Path, info: TargetFile) -> tuple[bytes, TargetFile] | None:
        """A held file and the signed patch from it."""
        try:
            if max(path.stat().st_size, info.length) > patch.LARGEST:
                return None
            base = path.read_bytes()
        except OSError:
            return None
        signed = self.target(patch.name(info.path, hashlib.sha256(base).hexdigest()))
        return (base, signed) if signed is not None and signed.length <= _MAX_PATCH else None

    def download(self, info: TargetFile, index: Index | None, target: Path, held: Sequence[Path]) -> Spool:
        """Put a target together at ``target``, verified and on disk; what was there before is used.

        held: files on this device that may have pieces of it. Raises as ``refresh``.
        """
        with _Explained(self._now):
            spool = Spool(target, info.length, index)
            spool.reuse(held)
            # By its pieces a wrong one is found and fetched again; without them only the whole can be judged.
            for _ in range(_TRIES if index else 1):
                for offset, data in self._transport.ranges(self._url(info), spool.missing, info.length):
                    spool.write(offset, data)
                if spool.complete() and _verified(info, target):
                    spool.close()
                    return spool
            spool.remove()
        raise UntrustedError(f"{info.path}: the server sends other bytes than those that were signed")

    def is_held(self, info: TargetFile, path: Path) -> bool:
        """Whether a file on this device is that target."""
        try:
            return _verified(info, path)
        except OSError:
            return False

    def _url(self, info: TargetFile) -> str:
        folder, slash, name = info.path.rpartition("/")
        if self._updater.consistent_snapshot:
            name = f"{next(iter(info.hashes.values()))}.{name}"
        return f"{self._target_base}{folder}{slash}{name}"


class _Fetcher(FetcherInterface):
    """Metadata by whatever transport, in memory: it is small."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._transport.whole(url, 1 << 30)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        try:
            data = b"".join(self._transport.whole(url, max_length))
        except MissingFileError as error:
            raise DownloadHTTPError(str(error), error.status) from error
        except TransportError as error:
            raise DownloadError(str(error)) from error
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{url}: more than {max_length} bytes, which it may have")
        return data


class _DurableUpdater(Updater):
    """Whatever python-tuf keeps is fsynced; its clock is the caller's."""

    _doubted: tuple[Timekeepers, datetime] | None = None

    def judge_at(self, now: datetime) -> None:
        self._trusted_set.reference_time = now

    @property
    def consistent_snapshot(self) -> bool:
        return bool(self._trusted_set.root.consistent_snapshot)

    def timestamp_fields(self) -> dict[str, object]:
        return dict(self._trusted_set.timestamp.unrecognized_fields)

    def timestamp_expires(self) -> datetime:
        expires: datetime = self._trusted_set.timestamp.expires
        return expires

    def doubt(self, believed: Timekeepers, clock: datetime) -> None:
        self._doubted = believed, clock

    @property
    def timekeepers(self) -> Timekeepers:
        root = self._trusted_set.root
        return Timekeepers(root.version, tuple(root.roles["timestamp"].keyids))

    def _load_root(self) -> None:
        super()._load_root()
        if self._doubted is not None and self._doubted[0].replaced_by(self.timekeepers):
            self.judge_at(self._doubted[1])

    def _persist_file(self, filename: str, data: bytes) -> None:
        replace_file(Path(filename), data)

    def _update_root_symlink(self) -> None:
        """Theirs takes the link away before it makes the new one."""
        link = Path(self._dir) / "root.json"
        aside = link.with_name(".root.json.new")
        aside.unlink(missing_ok=True)
        aside.symlink_to(Path("root_history") / f"{self._trusted_set.root.version}.root.json")
        aside.replace(link)
        sync_folder(link.parent)


def _verified(info: TargetFile, path: Path) -> bool:
    with path.open("rb") as file:
        try:
            info.verify_length_and_hashes(file)
        except RepositoryError:
            return False
    return True


class _Explained:
    """Errors of tuf, of the transport and of the disk, each as one of ours."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case ExpiredMetadataError():
                raise UntrustedError(
                    f"{error}; it is {self._now:%Y-%m-%d %H:%M} UTC here: either nobody signs the repository "
                    "any more, somebody holds news back, or this device's clock is wrong"
                ) from error
            case DownloadHTTPError():
                raise MissingFileError(str(error), error.status_code) from error
            case DownloadLengthMismatchError():
                raise UntrustedError(str(error)) from error
            case DownloadError():
                raise TransportError(str(error)) from error
            case RepositoryError():
                raise UntrustedError(f"{error}") from error
            case OSError():
                where = error.filename or "the state folder"
                raise StorageError(f"{where}: {os.strerror(error.errno or 0)}") from error
