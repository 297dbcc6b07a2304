"""Other keys for a role: which go, which come, and where the new ones are made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key

from marram_cloud.releases.repository import keys
from marram_cloud.releases.repository.create import RELEASE
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import ROLLOUT, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from marram_cloud.releases.repository.offline import OfflineRepository, RoleKeys
from marram_cloud.releases.repository.publication import Signatures

ONLINE = "online"
_ONLINE_ROLES = (ROLLOUT, SNAPSHOT, TIMESTAMP)


def rotate(
    repository: OfflineRepository, role: str, offline: Path, online: Path | None, *,
    replace: Collection[str], public: Sequence[Path], threshold: int | None, now: datetime,
) -> dict[str, Signatures]:  # fmt: skip
    """Stage new keys for ``role`` ("online": for all three that are signed online). Raises RepositoryError.

    offline, online: folders in which new keys are made. replace: names of the keys that go; all if empty.
    public: public keys of others who keep the private ones; the rest of what goes is made here.
    """
    roles = _ONLINE_ROLES if role == ONLINE else (role,)
    if online is None and role in (ONLINE, *_ONLINE_ROLES):
        raise RepositoryError("the folder of the online keys is needed: give --online or -c")
    signers = keys.read_folder(offline)
    kept = {one: _kept(repository.keys_of(one), one, replace) for one in roles}
    changed, made = {}, []
    for one in roles:
        old = repository.keys_of(one)
        others = [keys.read_public_key(path) for path in public]
        count = max(0, len(old.keys) - len(kept[one]) - len(others))
        folder = online if online is not None and one in _ONLINE_ROLES else offline
        fresh = keys.generate(folder, one if one in (ROOT, TARGETS, *_ONLINE_ROLES) else RELEASE, count)
        made += fresh
        new = [*kept[one], *others, *(signer.public_key for signer in fresh)]
        changed[one] = RoleKeys(new, threshold or old.threshold)
    return repository.rotate(changed, [*signers, *made], now)


def _kept(old: RoleKeys, role: str, replace: Collection[str]) -> list[Key]:
    if not replace:
        return []
    unknown = set(replace) - {keys.name(key) for key in old.keys}
    if unknown:
        raise RepositoryError(
            f"{', '.join(sorted(unknown))}: no key of {role}, which has {keys.names(old.keys)}"
        )
    return [key for key in old.keys if keys.name(key) not in replace]
