"""The offline half: what root, targets and release keys sign. Nothing here reaches a device by itself.

Every change is staged. With a threshold above one, one person makes the change and others add their
signatures to it (``cosign``); it is published by ``online.OnlineRepository.publish`` when there are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from marram.wire.topics import check_name
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from marram_cloud.releases.repository import targets as contents
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.keys import names
from marram_cloud.releases.repository.layout import (
    ROLLOUT,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    AnyMetadata,
    Layout,
    State,
    copy,
)
from marram_cloud.releases.repository.lifetimes import lifetime
from marram_cloud.releases.repository.publication import Signatures, staged_signatures
from marram_cloud.releases.repository.targets import FileKind

_TOP = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
_PATCHED = 3
_RESERVED = (*_TOP, ROLLOUT)


@dataclass(frozen=True)
class RoleKeys:
    """The keys of a role, and how many of them must sign."""

    keys: Sequence[Key]
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(self.keys):
            raise RepositoryError(f"a threshold of {self.threshold} cannot be met by {len(self.keys)} keys")


@dataclass(frozen=True)
class OfflineRepository:
    """A repository whose staged metadata is made and signed."""

    layout: Layout

    def add_model(
        self, model: str, release_keys: RoleKeys, signers: Sequence[Signer], now: datetime
    ) -> Signatures:
        """A model's role, without releases yet. signers: targets and release keys."""
        check_model(model)
        with self._edit() as (state, staged):
            targets: Targets = staged.get(TARGETS, state.roles[TARGETS]).signed
            if targets.delegations is not None and model in (targets.delegations.roles or {}):
                raise RepositoryError(f"model {model!r} is in the repository already")

            def delegate(targets: Targets) -> None:
                delegate_role(targets, model, release_keys)

            self._change(state, staged, TARGETS, delegate, signers, now)
            self._stage(state, staged, model, Metadata(Targets(expires=now)), signers, now)
            return staged_signatures(state, staged, TARGETS)

    def sign(
        self, model: str, version: str, kind: FileKind, content: bytes, signers: Sequence[Signer],
        now: datetime, bases: Sequence[bytes] = (),
    ) -> Signatures:  # fmt: skip
        """Stage a release; if exactly this one is staged already, add signatures to it.

        bases: files that devices hold beside the newest releases; patches from all of them are signed too.
        """
        with self._edit() as (state, staged):
            metadata = self._model(state, staged, model)
            path = f"{model}/{version}.{kind}"
            files = contents.target_files(
                model, version, kind, content, contents.next_sequence(metadata.signed)
            )
            before = contents.digest_of(metadata.signed, path)
            if before is not None and before != files[0][0].hashes["sha256"]:
                raise RepositoryError(
                    f"{path} was signed with other bytes: a version is for ever, take another"
                )
            if before is not None and path not in metadata.signed.targets:
                raise RepositoryError(
                    f"{path} was taken out: it cannot be released again, take another version"
                )
            if model in state.roles and path in state.roles[model].signed.targets:
                raise RepositoryError(f"{path} is published already")
            if before is not None:
                return self._cosign(state, staged, model, signers)
            held = [*bases, *self._newest(metadata.signed)]
            files += contents.patches(path, content, held)
            for file, bytes_ in files:
                self.layout.write_target(file, bytes_)

            def add(targets: Targets) -> None:
                contents.add(targets, files)

            self._change(state, staged, model, add, signers, now)
            return staged_signatures(state, staged, model)

    def _newest(self, targets: Targets) -> list[bytes]:
        """The files of the newest releases, as far as they are here: a signing machine may lack them."""
        found = []
        for release in contents.releases(targets)[:_PATCHED]:
            with suppress(RepositoryError):
                found.append(self.layout.read_target(targets.targets[release.path]))
        return found

    def withdraw(
        self, model: str, version: str, kind: str | None, signers: Sequence[Signer], now: datetime
    ) -> Signatures:
        """Stage the model's role without a release."""
        with self._edit() as (state, staged):
            release = contents.find(self._model(state, staged, model).signed, model, version, kind)

            def take_out(targets: Targets) -> None:
                contents.withdraw(targets, release)

            self._change(state, staged, model, take_out, signers, now)
            return staged_signatures(state, staged, model)

    def renew(self, role: str, signers: Sequence[Signer], now: datetime) -> Signatures:
        """Stage a role as it is, with a new expiry date."""
        with self._edit() as (state, staged):
            self._change(state, staged, role, lambda signed: None, signers, now)
            return staged_signatures(state, staged, role)

    def cosign(self, role: str, signers: Sequence[Signer]) -> Signatures:
        """Add signatures to what is staged for a role."""
        with self._edit() as (state, staged):
            if role not in staged:
                raise RepositoryError(f"nothing is staged for {role!r}; `release status` shows what is")
            return self._cosign(state, staged, role, signers)

    def rotate(
        self, keys: Mapping[str, RoleKeys], signers: Sequence[Signer], now: datetime
    ) -> dict[str, Signatures]:
        """Stage other keys for roles. signers: of the old and the new keys and of whoever vouches for them.

        Returns how far each piece of metadata that this takes is signed.
        """
        with self._edit() as (state, staged):
            of_root = {role: one for role, one in keys.items() if role in _TOP}
            of_targets = {role: one for role, one in keys.items() if role not in _TOP}

            def in_root(root: Root) -> None:
                for role, one in of_root.items():
                    _replace_keys(root, role, one)

            def in_targets(targets: Targets) -> None:
                for role, one in of_targets.items():
                    delegate_role(targets, role, one)

            touched = []
            if of_root:
                self._change(state, staged, ROOT, in_root, signers, now)
                touched.append(ROOT)
            if of_targets or TARGETS in of_root:
                self._change(state, staged, TARGETS, in_targets, signers, now)
                touched.append(TARGETS)
            for role in of_targets:
                if role != ROLLOUT:
                    self._change(state, staged, role, lambda signed: None, signers, now)
                    touched.append(role)
            return {role: staged_signatures(state, staged, role) for role in touched}

    def keys_of(self, role: str) -> RoleKeys:
        """The keys that a role has, what is staged counted in. Raises RepositoryError."""
        state, staged = self.layout.load(), self.layout.load_staged()
        signed = _delegator(state, staged, role)
        try:
            found = signed.get_delegated_role(role)
        except ValueError as error:
            raise RepositoryError(
                f"there is no role {role!r}; there are {', '.join(_roles(state))}"
            ) from error
        return RoleKeys([signed.get_key(keyid) for keyid in found.keyids], found.threshold)

    # ---- how a change is staged

    def _edit(self) -> _Edit:
        return _Edit(self.layout)

    def _model(self, state: State, staged: Mapping[str, AnyMetadata], model: str) -> Metadata[Targets]:
        metadata = staged.get(model) or state.roles.get(model)
        if metadata is None or model in _RESERVED:
            known = ", ".join(state.models) or "none"
            raise RepositoryError(
                f"model {model!r} is not in the repository (it has: {known}); `release add-model` adds it"
            )
        return metadata

    def _change(
        self, state: State, staged: dict[str, AnyMetadata], role: str,
        change: Callable[[Root], None] | Callable[[Targets], None], signers: Sequence[Signer], now: datetime,
    ) -> None:  # fmt: skip
        published: AnyMetadata | None = state.root if role == ROOT else state.roles.get(role)
        base = staged.get(role) or published
        if base is None or role in (SNAPSHOT, TIMESTAMP, ROLLOUT):
            raise RepositoryError(f"there is no role {role!r} that offline keys sign")
        new = copy(base)
        cast("Callable[[Root | Targets], None]", change)(new.signed)
        new.signed.version = published.signed.version + 1 if published is not None else 1
        self._stage(state, staged, role, new, signers, now)

    def _stage(
        self, state: State, staged: dict[str, AnyMetadata], role: str, new: AnyMetadata,
        signers: Sequence[Signer], now: datetime,
    ) -> None:  # fmt: skip
        new.signed.expires = now + lifetime(role)
        new.signatures.clear()
        before = dict(staged)
        staged[role] = new
        lacking = _add_signatures(state, staged, role, signers)
        if role in before and lacking.missing and staged_signatures(state, before, role).signed:
            raise RepositoryError(
                f"what is staged for {role} has signatures that this change would undo, and the keys at hand "
                f"are too few: have it signed and published first, or `release discard {role}`"
            )

    def _cosign(
        self, state: State, staged: dict[str, AnyMetadata], role: str, signers: Sequence[Signer]
    ) -> Signatures:
        staged[role] = copy(staged[role])
        return _add_signatures(state, staged, role, signers)


class _Edit:
    """The repository locked and read: what is published, and what is staged, to be changed and then written.

    What others rest on is written last, so that after a power cut nothing is staged that waits for a
    signature which nobody has made.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self._lock = layout, layout.lock()

    def __enter__(self) -> tuple[State, dict[str, AnyMetadata]]:
        self._lock.__enter__()
        try:
            state, self._before = self._layout.load(), self._layout.load_staged()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        self._staged = dict(self._before)
        return state, self._staged

    def __exit__(self, failure: type[BaseException] | None, *details: object) -> None:
        try:
            if failure is None:
                last = (TARGETS, ROOT)
                for role in sorted(
                    self._staged, key=lambda role: last.index(role) + 1 if role in last else 0
                ):
                    if self._staged[role] is not self._before.get(role):
                        self._layout.stage(role, self._staged[role])
        finally:
            self._lock.__exit__(None, None, None)


def check_model(model: str) -> str:
    """A model's name as it may be a role's. Raises RepositoryError."""
    try:
        check_name("model", model)
    except ValueError as error:
        raise RepositoryError(str(error)) from error
    if model in _RESERVED:
        raise RepositoryError(
            f"model name {model!r} is not usable: it is the name of a role of the repository"
        )
    return model


def delegate_role(targets: Targets, role: str, keys: RoleKeys) -> None:
    """Let a role with these keys vouch for everything below a folder of its name."""
    old = targets.delegations or Delegations({}, {})
    roles = dict(old.roles or {})
    ids = [key.keyid for key in keys.keys]
    roles[role] = DelegatedRole(role, ids, keys.threshold, terminating=True, paths=[f"{role}/*"])
    known = {**old.keys, **{key.keyid: key for key in keys.keys}}
    used = {keyid for one in roles.values() for keyid in one.keyids}
    targets.delegations = Delegations({keyid: known[keyid] for keyid in sorted(used)}, roles)


def _replace_keys(root: Root, role: str, keys: RoleKeys) -> None:
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys.keys:
        root.add_key(key, role)
    root.roles[role].threshold = keys.threshold


def _delegator(state: State, staged: Mapping[str, AnyMetadata], role: str) -> Root | Targets:
    if role in _TOP:
        return cast(Root, staged.get(ROOT, state.root).signed)
    return cast(Targets, staged.get(TARGETS, state.roles[TARGETS]).signed)


def _add_signatures(
    state: State, staged: Mapping[str, AnyMetadata], role: str, signers: Sequence[Signer]
) -> Signatures:
    """Sign with those keys that count. Raises RepositoryError where none does."""
    before = staged_signatures(state, staged, role)
    wanted = {key.keyid for key in (*before.unsigned, *before.signed)}
    # Whoever holds the published root counts by the keys that it names.
    fitting = [
        signer
        for signer in signers
        if signer.public_key.keyid in wanted or signer.public_key.keyid in _published_ids(state, role)
    ]
    if not fitting:
        asked = names([signer.public_key for signer in signers]) or "none"
        right = names((*before.unsigned, *before.signed))
        raise RepositoryError(f"none of the keys given ({asked}) is a key of {role} ({right})")
    for signer in fitting:
        staged[role].sign(signer, append=True)
    return staged_signatures(state, staged, role)


def _published_ids(state: State, role: str) -> list[str]:
    try:
        return _delegator(state, {}, role).get_delegated_role(role).keyids
    except ValueError:
        return []


def _roles(state: State) -> list[str]:
    return [ROOT, *sorted(state.roles), SNAPSHOT, TIMESTAMP]
