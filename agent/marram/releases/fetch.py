"""The child that looks for a release, verifies it and fetches it.

``python -I -m marram.releases.fetch PARENT`` reads a ``Job`` from standard input, asks the daemon for
blocks where the repository comes over MQTT, and ends with an ``Outcome``. TUF's code, and whatever a hostile
server sends, end with this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from marram.children.frames import FrameError, frame_pipes, read_frame, write_frame
from marram.errors import MarramError, StorageError
from marram.releases.talk import ANSWER, Ask, Begun, Bytes, End, Job, Outcome, Release
from marram.releases.transport import MissingFileError, Range, Transport, TransportError
from marram.wire.rollout import Plan, Rollout

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from marram.releases.tuf_client import Client

_MAX_ROLLOUT = 1 << 20


@dataclass
class PipeTransport:
    """Files through the daemon, which has the connection."""

    out: IO[bytes]
    into: IO[bytes]

    def whole(self, file: str, most: int) -> Iterator[bytes]:
        # The daemon hands blocks on as they come.
        blocks = dict(self._asked(Ask(file, None, 0, most)))
        at = 0
        for offset in sorted(blocks):
            if offset != at:
                raise TransportError(f"{file}: bytes {at} to {offset} did not come")
            yield blocks[offset]
            at += len(blocks[offset])

    def ranges(self, file: str, ranges: Sequence[Range], size: int) -> Iterator[tuple[int, bytes]]:
        if ranges:
            yield from self._asked(Ask(file, tuple(ranges), size, size))

    def _asked(self, ask: Ask) -> Iterator[tuple[int, bytes]]:
        write_frame(self.out, ask)
        while True:
            answer: Bytes | End | None = read_frame(self.into, ANSWER)
            match answer:
                case Bytes():
                    yield answer.offset, answer.data
                case End(missing=True):
                    raise MissingFileError(f"{ask.file}: the repository has no such file")
                case End(error=""):
                    return
                case End():
                    raise TransportError(f"{ask.file}: {answer.error}")
                case None:
                    raise FrameError("the daemon is gone")


def look(job: Job, transport: Transport, begun: Callable[[Release], None]) -> Outcome:
    """One look at the repository, and the download of what this device should run."""
    from marram.releases.tuf_client import Client, UntrustedError

    outcome = Outcome()
    try:
        client = Client(
            Path(job.metadata),
            f"{job.base}metadata/",
            f"{job.base}targets/",
            transport,
            job.now,
            Path(job.root).read_bytes(),
        )
        client.doubt(job.timekeepers, job.clock)
        client.refresh()
        outcome = Outcome(signed_at=client.signed_at, expires=client.expires, timekeepers=client.timekeepers)
        rollout = _rollout(client, job)
        withdrawn = _withdrawn(client, rollout, job)
        outcome = msgspec.structs.replace(outcome, withdrawn=withdrawn, revoked=rollout.revoked)
        plan = rollout.assigned(job.device, job.tags, job.running)
        if withdrawn or not job.settled or plan is None or plan.sha256 == job.running:
            # What is withdrawn is left first, at once; what comes in its place is the next look's.
            return outcome
        if plan.sha256 in job.refused:
            return msgspec.structs.replace(outcome, refused=plan.target)
        release, info = _signed(client, plan, job)
        begun(release)
        return _fetched(client, release, info, job, outcome)
    except (UntrustedError, TransportError, StorageError, OSError) as error:
        return msgspec.structs.replace(outcome, error=str(error))


def _fetched(client: Client, release: Release, info: TargetFile, job: Job, outcome: Outcome) -> Outcome:
    """By a patch of what is here where there is one, else the pieces that are missing."""
    spool, held = Path(job.spool), [Path(path) for path in job.held]
    # What came before a power cut is worth more than a patch.
    fetched = None if spool.exists() else client.patched(info, spool, held)
    if fetched is not None:
        return msgspec.structs.replace(
            outcome, release=release, fetched=fetched, reused=max(0, release.size - fetched)
        )
    index = client.index(release.target, release.size)
    done = client.download(info, index, spool, held)
    return msgspec.structs.replace(
        outcome, release=release, fetched=done.fetched, reused=done.reused, resumed=done.resumed
    )


def _rollout(client: Client, job: Job) -> Rollout:
    from marram.releases.tuf_client import UntrustedError

    path = f"rollout/{job.model}.json"
    info = client.target(path)
    if info is None:
        return Rollout(job.model)
    try:
        rollout = msgspec.json.decode(client.small(info, _MAX_ROLLOUT), type=Rollout)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedError(f"{path}: {error}") from error
    if rollout.model != job.model:
        raise UntrustedError(f"{path}: is the roll-out of {rollout.model!r}")
    return rollout


def _withdrawn(client: Client, rollout: Rollout, job: Job) -> str:
    """Why the release that runs may not run any more; "" when it may."""
    if not job.running:
        return ""
    if job.running in rollout.revoked:
        return "it was revoked"
    info = client.target(job.running_target)
    if info is None or info.hashes.get("sha256") != job.running:
        return "the model's keys do not sign it (any more)"
    return ""


def _signed(client: Client, plan: Plan, job: Job) -> tuple[Release, TargetFile]:
    """What the model's own keys say of the plan's target; they and not the roll-out's key are believed."""
    from marram.releases.tuf_client import UntrustedError

    if not plan.target.startswith(f"{job.model}/"):
        raise UntrustedError(f"{plan.target}: the roll-out of {job.model!r} names the file of something else")
    info = client.target(plan.target)
    if info is None or info.hashes.get("sha256") != plan.sha256:
        raise UntrustedError(f"{plan.target}: the roll-out names a file that the model's keys did not sign")
    custom = info.unrecognized_fields.get("custom", {})
    try:
        release = msgspec.convert(
            {**custom, "target": plan.target, "sha256": plan.sha256, "size": info.length}, Release
        )
    except (msgspec.ValidationError, TypeError) as error:
        raise UntrustedError(f"{plan.target}: its signed description cannot be used: {error}") from error
    if custom.get("model") != job.model or release.target != f"{job.model}/{release.version}.{release.kind}":
        raise UntrustedError(f"{plan.target}: is signed as {custom.get('model')!r} {release.version!r}")
    if release.sequence <= job.sequence:
        raise UntrustedError(
            f"{plan.target}: is older (number {release.sequence}) than what this device has run already "
            f"(number {job.sequence}); revoke the newer release to go back"
        )
    return release, info


def main() -> int:
    from marram.children.limits import explain, step_back

    into, out = frame_pipes()
    job = read_frame(into, Job)
    if job is None:
        return 1
    step_back(job.nice, job.memory, int(sys.argv[1]))
    transport: Transport
    if job.base:
        from marram.releases.https import HttpsTransport

        transport = HttpsTransport(job.patience, job.least_rate, job.authority)
    else:
        transport = PipeTransport(out, into)
    try:
        outcome = look(job, transport, lambda release: write_frame(out, Begun(release)))
    except Exception as error:
        outcome = Outcome(error=explain(error, job.memory))
    with suppress(MarramError):
        write_frame(out, outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
