"""What device and aggregator say to each other, as structs; the bytes are CBOR in a COSE envelope.

Arrays travel as ``bytes`` made by a codec chain. Every message carries an identity, so that a message
that arrives twice counts once. docs/protocol.md describes each of them for other implementations.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Text = Annotated[str, msgspec.Meta(max_length=500)]
MAX_BLOCK = 1 << 20  # bytes of a file in one message
Run = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published way to the parameters of ``version``.

    kind: "snapshot" needs nothing; "update" needs the parameters of version - 1.
    envelope: sha256 of the sealed bytes. size: their length. parts: how many chunks they came in.
    """

    version: Count
    kind: Literal["snapshot", "update"]
    envelope: Digest
    size: Count
    parts: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class Steps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device is asked to do: passes over its windows, batch size, step size, FedProx's mu."""

    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    batch: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    learning_rate: Annotated[float, msgspec.Meta(ge=0)]
    mu: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class RangesAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ranges of activations are wanted too. program: sha256 of the ``calibrate.onnx`` that measures them.

    limit: a device clips what lies further from 0.
    """

    program: Digest
    limit: Annotated[float, msgspec.Meta(gt=0, le=1e30)]


# A field that an older device does not know would make it refuse the offer: it is sent only where it is used.
class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A round, offered to all devices of the region (retained on ``<root>/round``).

    run: the identity of the ledger that the rounds are counted in; another one means that the rounds began
    anew. family: ``Manifest.family`` of the bundle that is trained. version, digest: the base parameters
    and the sha256 of their little-endian float32 bytes. chain: how the delta is to be encoded. seed: public
    randomness of the chain (mixed with the device's name). minimum: labelled windows (or windows, for
    tasks without labels) that a device needs. artefacts: the ways to the base parameters. ranges: where they
    are wanted.
    """

    run: Run
    round: Count
    model: str
    family: str
    version: Count
    digest: Digest
    chain: str
    seed: Count
    steps: Steps
    minimum: Count
    artefacts: tuple[Artefact, ...]
    ranges: RangesAsked | None = None


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of an artefact. digest: sha256 of the float32 bytes after it was applied."""

    version: Count
    kind: Literal["snapshot", "update"]
    chain: str
    seed: Count
    payload: bytes
    digest: Digest


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model on a device's own held-out windows. loss: mean. accuracy: None where it has no meaning."""

    count: Count
    loss: float
    accuracy: float | None = None


class Delta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a device learnt in a round: new minus base parameters, encoded by the offer's chain.

    run, round: the offer's. samples: windows it trained on. before, after: the base and the new parameters
    on held-out windows. ranges: of the activations under the base parameters, on windows that it trained on,
    where the offer asked and the device can tell; see ``marram.wire.ranges``.
    """

    run: Run
    round: Count
    version: Count
    chain: str
    payload: bytes
    samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
    before: Metrics
    after: Metrics
    ranges: Annotated[bytes, msgspec.Meta(max_length=1 << 16)] | None = None


class Decline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device will not train in this round, and why (the governor's reason)."""

    round: Count
    reason: Annotated[str, msgspec.Meta(max_length=200)]


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The aggregator has this delta safely on disk and counts it in the round. delta: its sha256."""

    round: Count
    delta: Digest


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The aggregator will never count this delta. reason: a name of ``marram.wire.reasons``."""

    delta: Digest
    reason: str
    detail: Annotated[str, msgspec.Meta(max_length=500)] = ""


Stage = Literal["idle", "fetching", "verified", "preflighted", "trial", "committed", "rolled_back"]


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device runs of a model, and how far it is with a release (retained on ``device/<id>/report``).

    It always introduces the device's certificate. agent: the agent's version. running: the target path of
    the release that runs, "" for the configured bundle. version, digest: of the bundle that runs. stage: of
    the last release that this device was to run. candidate: that release's target path, "" before the first.
    reason: why it was rolled back, or what it waits for. since: when this stage began, Unix seconds.
    """

    agent: Text
    model: Text
    running: Text
    version: Text
    digest: Digest
    stage: Stage
    candidate: Text = ""
    reason: Text = ""
    since: float = 0.0


class Fetch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device asks for blocks of a file of the release repository (``up/fetch``, plain CBOR, not sealed).

    id: chosen by the device, comes back in each answer. file: path below the repository, such as
    ``metadata/timestamp.json``. block: bytes a block. first: number of the block that the bitmap's first bit
    stands for. wanted: bit k (least significant first) asks for block first + k. limit: most bytes of data
    that one answer may carry.
    """

    id: Count
    file: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    block: Annotated[int, msgspec.Meta(ge=256, le=1 << 20)]
    first: Count
    wanted: Annotated[bytes, msgspec.Meta(min_length=1, max_length=8192)]
    limit: Annotated[int, msgspec.Meta(ge=256, le=MAX_BLOCK)]


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of a file (``down/block``, plain CBOR): ``data`` stands at ``offset`` of ``size`` bytes in all.

    Neighbouring blocks come as one. missing: there is no such file; the rest is then 0 and empty.
    """

    id: Count
    size: Count
    offset: Count
    data: bytes
    missing: bool = False
