"""The online half: publishing what is staged, the roll-out documents, and signing again in time.

Every change is a new version of some roles, a snapshot that names them, and a timestamp that names the
snapshot, written in this order, so that a reader at any moment finds versions that belong together. A new
root goes last, when the old root's keys are good for all of that too, else first. Snapshot and timestamp are
signed by every online key at hand that the old or the new root names: so online keys are changed without a
moment in which neither root fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import (
    ROLLOUT,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    AnyMetadata,
    Kind,
    Layout,
    State,
    copy,
    encode,
)
from marram_cloud.releases.repository.lifetimes import due, lifetime
from marram_cloud.releases.repository.publication import Publication, decide, signatures

TIME = "marram_time"
FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class OnlineRepository:
    """A repository and the folder of the keys for snapshot, timestamp and roll-out, read for each change."""

    layout: Layout
    keys: Path

    def publish(self, now: datetime) -> Publication:
        """Publish all that is staged and signed by enough keys. Raises RepositoryError, StorageError."""
        with self.layout.lock():
            state, staged = self.layout.load(), self.layout.load_staged()
            publication = decide(state, staged)
            if publication.root is not None or publication.roles:
                self._commit(state, publication.roles, publication.root, now)
            for role in (*publication.done, *publication.roles):
                self.layout.discard(role)
            if publication.root is not None:
                self.layout.discard(ROOT)
        return publication

    def put_target(self, state: State, path: str, content: bytes, custom: object, now: datetime) -> None:
        """Publish a target of the roll-out role. The caller holds the lock and has loaded ``state``."""
        file = TargetFile.from_data(path, content, ["sha256"])
        file.unrecognized_fields["custom"] = custom
        self.layout.write_target(file, content)
        rollout = _renewed(state.roles[ROLLOUT], ROLLOUT, now)
        rollout.signed.targets[path] = file
        self._commit(state, {ROLLOUT: rollout}, None, now)

    def refresh(self, now: datetime, force: bool = False) -> bool:
        """Sign again what has lived half of its time (force: all); whether there was anything."""
        if not force and not online_due(self.layout.load(), now):
            return False
        with self.layout.lock():
            state = self.layout.load()
            rollout = state.roles[ROLLOUT]
            again = force or due(ROLLOUT, rollout.signed, now)
            self._commit(state, {ROLLOUT: _renewed(rollout, ROLLOUT, now)} if again else {}, None, now)
        return True

    def _commit(
        self, state: State, changed: Mapping[str, Metadata[Targets]], root: Metadata[Root] | None,
        now: datetime,
    ) -> None:  # fmt: skip
        signers = keys.read_folder(self.keys)
        new_root = root or state.root
        after = replace(state, root=new_root, roles={**state.roles, **changed})
        if ROLLOUT in changed or self._resign_rollout(after):
            metadata = changed.get(ROLLOUT) or _renewed(state.roles[ROLLOUT], ROLLOUT, now)
            delegators = state.roles[TARGETS].signed, after.roles[TARGETS].signed
            _sign(metadata, ROLLOUT, delegators, signers, self.keys)
            changed = {**changed, ROLLOUT: metadata}
        roots = state.root.signed, new_root.signed
        snapshot = state.snapshot
        if changed or due(SNAPSHOT, snapshot.signed, now) or root is not None:
            snapshot = _renewed(snapshot, SNAPSHOT, now)
            for role, metadata in changed.items():
                snapshot.signed.meta[f"{role}.json"] = meta(metadata)
            _sign(snapshot, SNAPSHOT, roots, signers, self.keys)
        timestamp = _renewed(state.timestamp, TIMESTAMP, now)
        timestamp.signed.snapshot_meta = meta(snapshot)
        timestamp.signed.unrecognized_fields[TIME] = now.strftime(FORMAT)
        _sign(timestamp, TIMESTAMP, roots, signers, self.keys)
        root_first = root is not None and any(
            signatures(state.root.signed, role, metadata).missing
            for role, metadata in (
                (SNAPSHOT, snapshot),
                (TIMESTAMP, timestamp),
                (TARGETS, changed.get(TARGETS, state.roles[TARGETS])),
            )
        )
        files = [
            (self.layout.metadata(role, one.signed.version), encode(one)) for role, one in changed.items()
        ]
        if snapshot is not state.snapshot:
            files.append((self.layout.metadata(SNAPSHOT, snapshot.signed.version), encode(snapshot)))
        files.append((self.layout.timestamp, encode(timestamp)))
        if root is not None:
            written = self.layout.metadata(ROOT, root.signed.version), encode(root)
            files.insert(0 if root_first else len(files), written)
        for path, content in files:
            self.layout.write(path, content)

    def _resign_rollout(self, state: State) -> bool:
        """Whether the keys of the roll-out role were changed by what is to be published."""
        return bool(signatures(state.roles[TARGETS].signed, ROLLOUT, state.roles[ROLLOUT]).missing)


def online_due(state: State, now: datetime) -> bool:
    """Whether anything that online keys sign has lived half of its time."""
    online = (TIMESTAMP, state.timestamp), (SNAPSHOT, state.snapshot), (ROLLOUT, state.roles[ROLLOUT])
    return any(due(role, metadata.signed, now) for role, metadata in online)


def _renewed(metadata: Metadata[Kind], role: str, now: datetime) -> Metadata[Kind]:
    """The next version, unsigned."""
    new = copy(metadata)
    new.signed.version += 1
    new.signed.expires = now + lifetime(role)
    new.signatures.clear()
    return new


def _sign(
    metadata: AnyMetadata, role: str, delegators: Sequence[Root | Targets], signers: Sequence[Signer],
    folder: Path,
) -> None:  # fmt: skip
    """Sign with every key that an old or a new delegator names; enough for the new one, or an error."""
    known = {keyid for delegator in delegators for keyid in delegator.get_delegated_role(role).keyids}
    for signer in signers:
        if signer.public_key.keyid in known:
            metadata.sign(signer, append=True)
    lacking = signatures(delegators[-1], role, metadata)
    if lacking.missing:
        raise RepositoryError(f"{folder}: cannot sign {role}: it {lacking}")


def meta(metadata: Metadata[Targets] | Metadata[Snapshot]) -> MetaFile:
    """How a snapshot names a role, and a timestamp the snapshot."""
    return MetaFile.from_data(metadata.signed.version, encode(metadata), ["sha256"])
