"""The commands below ``marram-cloud release``: one function a command, no logic."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from marram_cloud.releases.place import Place
    from marram_cloud.releases.repository.publication import Signatures
    from marram_cloud.releases.repository.targets import Release
    from marram_cloud.releases.rollout.document import Document


def _init(options: argparse.Namespace) -> int:
    from marram.storage import replace_file

    from marram_cloud.releases.repository.create import Quorum, Quorums, create

    quorums = Quorums(
        Quorum(options.root_keys, options.root_threshold),
        Quorum(options.targets_keys, options.targets_threshold),
        Quorum(options.release_keys, options.release_threshold),
    )
    root = create(options.repository, options.keys, options.online, options.models, quorums, _now())
    replace_file(options.root or options.repository / "root.json", root)
    print(f"repository: {options.repository}; online keys: {options.online}")
    print(f"Keep {options.keys} offline: whoever has its keys can change what all devices run.")
    return 0


def _add_model(options: argparse.Namespace) -> int:
    from marram_cloud.releases.repository import keys
    from marram_cloud.releases.repository.offline import RoleKeys

    public = [keys.read_public_key(path) for path in options.public]
    given = _signers(options)
    release_keys = public or [signer.public_key for signer in keys.read_folder(options.keys, "release")]
    lacking = _place(options).offline_repository.add_model(
        options.model, RoleKeys(release_keys, options.threshold), given, _now()
    )
    _tell_staged("targets", lacking)
    return 0


def _build(options: argparse.Namespace) -> int:
    from marram.bundle.file import read
    from marram.config.load import load
    from marram.storage import replace_file

    from marram_cloud.aggregator import open_ledger
    from marram_cloud.config.schema import Aggregator
    from marram_cloud.releases.build import as_text, build, choose_parameters, next_version
    from marram_cloud.releases.calibration import read_calibration
    from marram_cloud.releases.fleet_ranges import FromFleet
    from marram_cloud.releases.repository.errors import RepositoryError

    config = load(options.config, Aggregator)
    if config.releases is None:
        raise RepositoryError(f"{options.config}: has no section releases")
    ledger, bundle = open_ledger(config), read(config.bundle)
    manifest = bundle.manifest
    # Trees have no mean.
    average = 1 if manifest.forest else config.releases.average
    chosen = choose_parameters(ledger, options.parameters, config.rounds.minimum_devices, average)
    windows = config.releases.calibration
    calibration = (
        read_calibration(windows, len(manifest.channels), manifest.length) if windows is not None else None
    )
    fleet = FromFleet(config.releases.ranges.devices, config.releases.ranges.trim)
    layout = config.releases.online_repository().layout
    version = options.version or next_version(layout, manifest.name, chosen)
    built = build(ledger, bundle, chosen, calibration, fleet, version)
    output = options.output or Path(f"{manifest.name}-{version}.marram")
    replace_file(output, built.content)
    print(as_text(manifest.name, chosen, built, output))
    return 0


def _sign(options: argparse.Namespace) -> int:
    from marram_cloud.releases.repository.targets import kind_of, read_file

    kind, content = kind_of(options.file), read_file(options.file)
    place = _place(options)
    first = [place.config.bundle] if place.config is not None else []
    bases = [read_file(path) for path in (first if options.base is None else options.base)]
    lacking = place.offline_repository.sign(
        options.model, options.version, kind, content, _signers(options), _now(), bases
    )
    _tell_staged(options.model, lacking)
    return 0


def _cosign(options: argparse.Namespace) -> int:
    _tell_staged(options.role, _place(options).offline_repository.cosign(options.role, _signers(options)))
    return 0


def _renew(options: argparse.Namespace) -> int:
    _tell_staged(
        options.role, _place(options).offline_repository.renew(options.role, _signers(options), _now())
    )
    return 0


def _discard(options: argparse.Namespace) -> int:
    layout = _place(options).layout
    with layout.lock():
        layout.discard(options.role)
    print(f"{options.role}: nothing is staged any more")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    from marram_cloud.releases.repository.rotation import rotate

    place = _place(options)
    changed = rotate(
        place.offline_repository, options.role, options.keys, place.online, replace=options.replace,
        public=options.public, threshold=options.threshold, now=_now(),
    )  # fmt: skip
    for role, lacking in changed.items():
        _tell_staged(role, lacking)
    return 0


def _publish(options: argparse.Namespace) -> int:
    publication = _place(options).online_repository.publish(_now())
    published = ["root"] * (publication.root is not None) + sorted(publication.roles)
    print(f"published: {', '.join(published) or 'nothing'}")
    for role, why in publication.waiting.items():
        print(f"{role}: {why}")
    return 1 if publication.waiting else 0


def _promote(options: argparse.Namespace) -> int:
    from marram_cloud.releases.rollout.audience import Audience, read_soak

    audience, then = Audience.parse(options.to), tuple(options.then)
    soak, now = read_soak(options.soak), time.time()
    return _change(
        options,
        lambda document, release: document.promoted(
            release, audience, now, then=then, soak=soak, narrow=options.narrow
        ),
    )


def _pause(options: argparse.Namespace) -> int:
    return _change(options, lambda document, release: document.paused(release.path, options.reason))


def _resume(options: argparse.Namespace) -> int:
    return _change(options, lambda document, release: document.resumed(release.path, time.time()))


def _revoke(options: argparse.Namespace) -> int:
    if options.take_out:
        lacking = _place(options).offline_repository.withdraw(
            options.model, options.version, options.kind, _signers(options), _now()
        )
        _tell_staged(options.model, lacking)
        return 0
    return _change(options, lambda document, release: document.revoked(release.sha256))


def _refresh(options: argparse.Namespace) -> int:
    _place(options).online_repository.refresh(_now(), force=True)
    print("timestamp, snapshot and roll-out are signed anew")
    return 0


def _status(options: argparse.Namespace) -> int:
    import msgspec

    from marram_cloud.releases.status import as_text, look

    place = _place(options)
    enrolled, reports = place.devices()
    status = look(place.layout, reports, enrolled, _now())
    print(msgspec.json.format(msgspec.json.encode(status)).decode() if options.json else as_text(status))
    return 0


def _place(options: argparse.Namespace) -> Place:
    from marram_cloud.releases.place import Place

    return Place.of(options.config, options.repository, options.online)


def _signers(options: argparse.Namespace) -> Sequence[Signer]:
    from marram_cloud.releases.repository import keys
    from marram_cloud.releases.repository.hsm import SCHEME, read_hsm_key

    given = [read_hsm_key(key) if key.startswith(SCHEME) else keys.read_key(Path(key)) for key in options.key]
    return given or keys.read_folder(options.keys)


def _change(options: argparse.Namespace, change: Callable[[Document, Release], Document]) -> int:
    from marram_cloud.releases.status import progress

    document = _place(options).rollouts.change(
        options.model, options.version, options.kind, time.time(), change
    )
    print(progress(document))
    return 0


def _tell_staged(role: str, lacking: Signatures) -> None:
    print(f"{role}: staged; {lacking if lacking.missing else 'signed: `release publish` publishes it'}")


def _now() -> datetime:
    return datetime.now(UTC)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands, each with its flags."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str, place: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        if place:
            added.add_argument("-c", "--config", type=Path, help="the aggregator's YAML file")
            added.add_argument("-r", "--repository", type=Path, help="instead of the YAML's")
            added.add_argument("--online", type=Path, help="folder of the online keys, instead of the YAML's")
        return added

    _add_making(command)
    _add_signing(command)
    _add_rollout(command)


Command = Callable[..., argparse.ArgumentParser]


def _add_making(command: Command) -> None:
    made = command(
        "init", _init, "Make a release repository and its keys (`marram-cloud init` does too).", False
    )
    made.add_argument("repository", type=Path)
    made.add_argument("--keys", type=Path, required=True, help="folder for the keys to be kept offline")
    made.add_argument("--online", type=Path, required=True, help="folder for the online keys")
    made.add_argument("--root", type=Path, help="file for the root that devices get (default: in REPOSITORY)")
    made.add_argument("--models", nargs="*", default=[])
    for role in ("root", "targets", "release"):
        made.add_argument(f"--{role}-keys", type=int, default=1, metavar="N")
        made.add_argument(f"--{role}-threshold", type=int, default=1, metavar="N")
    built = command(
        "build", _build, "Turn learnt parameters into an int8 bundle, a file to be signed.", False
    )
    built.add_argument("-c", "--config", type=Path, required=True, help="the aggregator's YAML file")
    built.add_argument("--parameters", type=int, help="version of them (default: the best evaluated)")
    built.add_argument("--version", help="of the bundle (default: its number and that of the parameters)")
    built.add_argument("-o", "--output", type=Path)
    shown = command("status", _status, "Show what is published and staged, and who runs what and why not.")
    shown.add_argument("--json", action="store_true")


def _add_signing(command: Command) -> None:
    added = command("add-model", _add_model, "Give a model a role with release keys of its own.")
    added.add_argument("model")
    added.add_argument("--public", type=Path, nargs="*", default=[], help="release keys of others (PEM)")
    added.add_argument("--threshold", type=int, default=1)
    signed = command("sign", _sign, "Sign a file as a release; the second signature by the same command.")
    signed.add_argument("file", type=Path)
    signed.add_argument("--model", required=True)
    signed.add_argument("--version", required=True)
    signed.add_argument(
        "--base",
        type=Path,
        nargs="*",
        help="files that devices begin with (default: the YAML's bundle)",
    )
    cosigned = command("cosign", _cosign, "Add a signature to what is staged for a role.")
    renewed = command("renew", _renew, "Stage a role as it is with a new expiry date.")
    discarded = command("discard", _discard, "Forget what is staged for a role.")
    rotated = command("rotate", _rotate, "Stage new keys for root, targets, a model, or online.")
    for one in (cosigned, renewed, discarded, rotated):
        one.add_argument("role")
    for one in (added, signed, cosigned, renewed):
        _add_keys(one)
    rotated.add_argument("--keys", type=Path, required=True, help="folder of the offline keys")
    rotated.add_argument("--replace", nargs="*", default=[], metavar="KEY", help="names (default: all)")
    rotated.add_argument("--public", type=Path, nargs="*", default=[], help="new keys of others (PEM)")
    rotated.add_argument("--threshold", type=int, help="default: as it was")
    command("publish", _publish, "Publish what is staged and signed.")
    command("refresh", _refresh, "Sign timestamp, snapshot and roll-out anew.")


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", nargs="*", default=[], help="key files that sign, or hsm:<id>?label=<token>")
    parser.add_argument("--keys", type=Path, default=Path("offline"), help="or all keys of a folder")


def _add_rollout(command: Command) -> None:
    promoted = command("promote", _promote, "Let more devices run a release.")
    paused = command("pause", _pause, "No further device begins with a release.")
    resumed = command("resume", _resume, "Go on after a pause.")
    revoked = command("revoke", _revoke, "No device may run a release any more.")
    for one in (promoted, paused, resumed, revoked):
        one.add_argument("model")
        one.add_argument("version")
        one.add_argument("--kind", choices=("marram", "onnx", "tflite"))
    promoted.add_argument("--to", required=True, help="5%%, all, group:NAME or device:NAME")
    promoted.add_argument("--then", action="append", default=[], help="a later stage; may be given again")
    promoted.add_argument("--soak", default="0s", help="time between two stages, such as 1h")
    promoted.add_argument("--narrow", action="store_true", help="to these devices only")
    paused.add_argument("--reason", default="by hand")
    revoked.add_argument(
        "--take-out", action="store_true", help="stage the model's role without it (offline)"
    )
    _add_keys(revoked)
