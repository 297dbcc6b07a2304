"""Which staged metadata can be published together. Pure: it reads and writes nothing.

Root vouches for targets, targets for each model's role and the roll-out's. What is published must verify as
a whole: new keys of a model are not published before the model's own metadata is signed by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from marram_cloud.releases.repository.keys import names
from marram_cloud.releases.repository.layout import ROLLOUT, ROOT, TARGETS, AnyMetadata, State


@dataclass(frozen=True)
class Signatures:
    """How far a role's metadata is signed. missing: how many more are needed, of ``unsigned`` keys."""

    missing: int
    signed: tuple[Key, ...]
    unsigned: tuple[Key, ...]

    def __str__(self) -> str:
        if not self.missing:
            return "signed"
        return f"needs {self.missing} more of these keys to sign it: {names(self.unsigned)}"


@dataclass(frozen=True)
class Publication:
    """root, roles: what can be published. waiting: of each other staged role, why it cannot be yet."""

    root: Metadata[Root] | None = None
    roles: Mapping[str, Metadata[Targets]] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    done: tuple[str, ...] = ()


def signatures(delegator: Root | Targets, role: str, metadata: AnyMetadata) -> Signatures:
    """Of a role's metadata, as its delegator counts them."""
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return Signatures(result.missing, tuple(result.signed.values()), tuple(result.unsigned.values()))


def root_signatures(old: Root, new: Metadata[Root]) -> Signatures:
    """Of a new root, which its own keys and those before it must sign."""
    result = new.signed.get_root_verification_result(old, new.signed_bytes, new.signatures)
    missing = max(result.first.missing, result.second.missing)
    return Signatures(missing, tuple(result.signed.values()), tuple(result.unsigned.values()))


def staged_signatures(state: State, staged: Mapping[str, AnyMetadata], role: str) -> Signatures:
    """Of a staged role, counted by the keys that will hold once all that is staged is published."""
    metadata = staged[role]
    if role == ROOT:
        return root_signatures(state.root.signed, metadata)
    above = ROOT if role == TARGETS else TARGETS
    published: AnyMetadata = state.root if above == ROOT else state.roles[TARGETS]
    return signatures(staged.get(above, published).signed, role, metadata)


def decide(state: State, staged: Mapping[str, AnyMetadata]) -> Publication:
    """The most that can be published now."""
    waiting: dict[str, str] = {}
    done = []
    usable: dict[str, AnyMetadata] = {}
    for role, metadata in staged.items():
        published = _published(state, role)
        if published is not None and metadata.signed == published.signed:
            done.append(role)
            continue
        version = published.signed.version if published is not None else 0
        if metadata.signed.version != version + 1:
            waiting[role] = (
                f"is version {metadata.signed.version} but version {version} is published: "
                f"take it away with `release discard {role}` and sign again"
            )
            continue
        usable[role] = metadata
    result = _choose(state, usable, waiting)
    return Publication(result.root, result.roles, waiting, tuple(done))


def _choose(state: State, usable: dict[str, AnyMetadata], waiting: dict[str, str]) -> Publication:
    root = cast("Metadata[Root] | None", usable.get(ROOT))
    if root is not None:
        signed = root_signatures(state.root.signed, root)
        if signed.missing:
            waiting[ROOT], root = str(signed), None
    targets = cast("Metadata[Targets] | None", usable.get(TARGETS))
    if targets is not None:
        signed = signatures((root or state.root).signed, TARGETS, targets)
        if signed.missing:
            waiting[TARGETS], targets = str(signed), None
    models, lacking = _models(state, usable, targets or state.roles[TARGETS])
    if targets is not None and lacking:
        waiting[TARGETS] = "; ".join(f"waits for {model}, which {why}" for model, why in lacking.items())
        targets = None
        # Published by the old keys now, they could not be signed by the new ones any more.
        others = {role: one for role, one in usable.items() if role not in lacking}
        models, _ = _models(state, others, state.roles[TARGETS])
    current = targets or state.roles[TARGETS]
    if root is not None and signatures(root.signed, TARGETS, current).missing:
        waiting[ROOT] = f"waits for {TARGETS} to be signed by the new keys"
        # Without the new root nothing that rests on it can go out.
        return _choose(state, {role: one for role, one in usable.items() if role != ROOT}, waiting)
    for role, metadata in usable.items():
        if role not in (ROOT, TARGETS) and role not in models:
            waiting[role] = lacking.get(role) or _why(current, role, metadata)
    roles = {**models, **({TARGETS: targets} if targets is not None else {})}
    return Publication(root, roles)


def _models(
    state: State, usable: Mapping[str, AnyMetadata], targets: Metadata[Targets]
) -> tuple[dict[str, Metadata[Targets]], dict[str, str]]:
    """Staged roles that these targets vouch for, and those that would be left without valid metadata."""
    chosen: dict[str, Metadata[Targets]] = {}
    lacking: dict[str, str] = {}
    delegations = targets.signed.delegations
    for role in (delegations.roles or {}) if delegations is not None else {}:
        if role in usable and not signatures(targets.signed, role, usable[role]).missing:
            chosen[role] = usable[role]
        elif role == ROLLOUT:
            continue  # signed anew with online keys when it is published
        elif role not in state.roles or signatures(targets.signed, role, state.roles[role]).missing:
            metadata = usable.get(role) or state.roles.get(role)
            lacking[role] = "has no metadata" if metadata is None else _why(targets, role, metadata)
    return chosen, lacking


def _why(targets: Metadata[Targets], role: str, metadata: AnyMetadata) -> str:
    delegations = targets.signed.delegations
    if delegations is None or role not in (delegations.roles or {}):
        return f"waits for {TARGETS}, which do not name it yet"
    return str(signatures(targets.signed, role, metadata))


def _published(state: State, role: str) -> AnyMetadata | None:
    return state.root if role == ROOT else state.roles.get(role)
