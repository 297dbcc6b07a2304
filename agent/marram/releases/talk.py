"""What the daemon and the children of its releases say to each other, as frames."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from marram.bundle.description import Description
from marram.bundle.manifest import InferRole
from marram.releases.gates import Measured

Kind = Literal["marram", "onnx", "tflite"]


class Timekeepers(msgspec.Struct, frozen=True):
    """Whose timestamps a device believed: ids of the keys, as version ``root`` of the root named them."""

    root: int = 0
    keys: tuple[str, ...] = ()

    def replaced_by(self, other: Timekeepers) -> bool:
        """Whether a newer root names none of these keys any more.

        They said how late it is. Once they were replaced nothing holds of that: a stolen one may have put the
        device's time years ahead (TUF, 5.3.11, does the same with the versions that such keys gave).
        """
        return bool(self.keys) and other.root > self.root and set(self.keys).isdisjoint(other.keys)


class Job(msgspec.Struct, frozen=True, tag=True):
    """What to look for, and where to put it.

    base: URL of the repository; "" to ask the daemon for files, which fetches them over MQTT. metadata:
    folder. root: file of the factory root. spool: file that the release is put together in. held: files that
    may have pieces of it. now: Unix seconds; clock: the same without what timestamps said, which
    ``timekeepers`` signed. running, running_target: sha256 and target path of the release that runs, "" for
    the configured bundle. settled: whether another may take its place. sequence: the newest that was ever
    committed here. refused: sha256 of files that this device will not try again. authority, patience,
    least_rate: see ``https``. memory: bytes.
    """

    base: str
    metadata: str
    root: str
    spool: str
    held: tuple[str, ...]
    now: float
    clock: float
    timekeepers: Timekeepers
    device: str
    tags: tuple[str, ...]
    model: str
    running: str
    running_target: str
    settled: bool
    sequence: int
    refused: tuple[str, ...]
    authority: str | None
    memory: int
    nice: int
    patience: float = 30.0
    least_rate: float = 200.0


class Release(msgspec.Struct, frozen=True):
    """A release as the model's keys signed it. sha256: hex. size: bytes."""

    target: str
    version: str
    kind: Kind
    sequence: int
    sha256: str
    size: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """The child wants a file, or ranges of one of ``size`` bytes. most: of a whole file, in bytes."""

    file: str
    ranges: tuple[tuple[int, int], ...] | None
    size: int
    most: int


class Bytes(msgspec.Struct, frozen=True, tag=True):
    """Some of the file that was asked for."""

    offset: int
    data: bytes


class End(msgspec.Struct, frozen=True, tag=True):
    """Nothing more comes. missing: there is no such file. error: why it did not come, "" when it did."""

    missing: bool = False
    error: str = ""


class Begun(msgspec.Struct, frozen=True, tag=True):
    """The child fetches this release."""

    release: Release


class Outcome(msgspec.Struct, frozen=True, tag=True):
    """The child's last word.

    release: what is complete in the spool, verified; None when there is nothing to do, or it failed.
    fetched, reused, resumed: bytes of it that came now, from held files, and from an attempt before.
    withdrawn: why the release that runs may not run any more; "" when it may. revoked: sha256 of all releases
    that may not run. error: why the look or the download failed. refused: target
    path of the assigned release, when it was refused here before. signed_at, expires: of the newest signed
    timestamp, Unix seconds, 0 when none was verified. timekeepers: who signed it.
    """

    release: Release | None = None
    fetched: int = 0
    reused: int = 0
    resumed: int = 0
    withdrawn: str = ""
    revoked: tuple[str, ...] = ()
    error: str = ""
    refused: str = ""
    signed_at: float = 0.0
    expires: float = 0.0
    timekeepers: Timekeepers = Timekeepers()


class Candidate(msgspec.Struct, frozen=True):
    """A model file to try. name, version: for people. configured: file of the YAML's model; description: of a
    bare one. memory: bytes that the child may take. role: which of its forms.
    """

    name: str
    version: str
    file: str
    kind: Kind
    configured: str
    description: Description | None
    threads: int
    providers: tuple[str, ...]
    memory: int
    nice: int
    role: InferRole = "infer"


class PreflightJob(msgspec.Struct, frozen=True):
    """windows: the sample store's file, "" where there is none. count: most windows to run.

    running: None to try the candidate on its own.
    """

    running: Candidate | None
    candidate: Candidate
    windows: str
    count: int


class Tried(msgspec.Struct, frozen=True, tag=True):
    """Measurements of the candidate and of the running model on the same windows, all so far."""

    candidate: Measured
    running: Measured


class TrialJob(msgspec.Struct, frozen=True):
    """What to run on live windows: both, so that they are measured under the same conditions."""

    running: Candidate
    candidate: Candidate


class Batch(msgspec.Struct, frozen=True):
    """Live windows. values: little-endian float32 (n, channels, length). labels: -1 where there is none."""

    values: bytes
    labels: tuple[int, ...]


# For read_frame. A union of structs is a type to msgspec, and none to a type checker's `type[...]`.
TOLD: Any = Ask | Begun | Outcome
ANSWER: Any = Bytes | End
