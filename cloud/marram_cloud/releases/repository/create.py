"""A new repository: its keys, and version 1 of every role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.metadata import Metadata, Role, Root, Snapshot, Targets, Timestamp

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import (
    ROLLOUT,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Kind,
    Layout,
    encode,
)
from marram_cloud.releases.repository.lifetimes import lifetime
from marram_cloud.releases.repository.offline import RoleKeys, check_model, delegate_role
from marram_cloud.releases.repository.online import FORMAT, TIME, meta

RELEASE = "release"


@dataclass(frozen=True)
class Quorum:
    """How many keys a role gets and how many of them must sign."""

    keys: int = 1
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys:
            raise RepositoryError(f"a threshold of {self.threshold} cannot be met by {self.keys} keys")


@dataclass(frozen=True)
class Quorums:
    """Of the roles with offline keys."""

    root: Quorum = Quorum()
    targets: Quorum = Quorum()
    release: Quorum = Quorum()


def create(
    path: Path, offline: Path, online: Path, models: Sequence[str], quorums: Quorums, now: datetime
) -> bytes:
    """Make keys and repository; the root metadata, for devices. Raises RepositoryError, EnrolmentError.

    offline: folder for the keys of root, targets and releases. online: for snapshot, timestamp, roll-out.
    """
    for model in models:
        check_model(model)
    if path.exists() and any(path.iterdir()):
        raise RepositoryError(f"{path}: is there already; a new repository needs a new folder")
    root_keys = keys.generate(offline, ROOT, quorums.root.keys)
    targets_keys = keys.generate(offline, TARGETS, quorums.targets.keys)
    release_keys = keys.generate(offline, RELEASE, quorums.release.keys)
    online_keys = {role: keys.generate(online, role, 1) for role in (ROLLOUT, SNAPSHOT, TIMESTAMP)}
    targets = Targets()
    delegate_role(targets, ROLLOUT, RoleKeys(_public(online_keys[ROLLOUT])))
    for model in models:
        delegate_role(targets, model, RoleKeys(_public(release_keys), quorums.release.threshold))
    root = Root(consistent_snapshot=True)
    for role, signers, threshold in (
        (ROOT, root_keys, quorums.root.threshold),
        (TARGETS, targets_keys, quorums.targets.threshold),
        (SNAPSHOT, online_keys[SNAPSHOT], 1),
        (TIMESTAMP, online_keys[TIMESTAMP], 1),
    ):
        root.roles[role] = Role([], threshold)
        for key in _public(signers):
            root.add_key(key, role)
    roles = {TARGETS: _signed(targets, TARGETS, targets_keys, now)}
    roles |= {model: _signed(Targets(), model, release_keys, now) for model in models}
    roles[ROLLOUT] = _signed(Targets(), ROLLOUT, online_keys[ROLLOUT], now)
    return _write(Layout(path), _signed(root, ROOT, root_keys, now), roles, online_keys, now)


def _write(
    layout: Layout, root: Metadata[Root], roles: dict[str, Metadata[Targets]],
    online: dict[str, list[CryptoSigner]], now: datetime,
) -> bytes:  # fmt: skip
    named = {f"{role}.json": meta(metadata) for role, metadata in roles.items()}
    snapshot = _signed(Snapshot(meta=named), SNAPSHOT, online[SNAPSHOT], now)
    timestamp = Timestamp(snapshot_meta=meta(snapshot), unrecognized_fields={TIME: now.strftime(FORMAT)})
    for role, metadata in roles.items():
        layout.write(layout.metadata(role, 1), encode(metadata))
    layout.write(layout.metadata(SNAPSHOT, 1), encode(snapshot))
    layout.write(layout.metadata(ROOT, 1), encode(root))
    layout.write(layout.timestamp, encode(_signed(timestamp, TIMESTAMP, online[TIMESTAMP], now)))
    return encode(root)


def _public(signers: Sequence[Signer]) -> list[Key]:
    return [signer.public_key for signer in signers]


def _signed(signed: Kind, role: str, signers: Sequence[Signer], now: datetime) -> Metadata[Kind]:
    signed.expires = now + lifetime(role)
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata
