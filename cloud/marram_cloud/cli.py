"""The command line ``marram-cloud``: one function a command, no logic."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from marram.errors import MarramError

from marram_cloud.enrolment import commands as enrolment
from marram_cloud.enrolment.broker import FILES, PORT
from marram_cloud.releases import cli as releases
from marram_cloud.workshop import cli as workshops

if TYPE_CHECKING:
    from marram_cloud.config.schema import Aggregator


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 1 with the reason on standard error."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except MarramError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _init(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    folder = FleetFolder.create(
        options.folder, options.fleet, options.region, options.device_days, options.models
    )
    if options.broker:
        folder.write_broker(tuple(options.broker))
    print(f"fleet {options.fleet!r}, region {options.region!r}: {folder.path}")
    print("Keep ca.key and offline/ away from the aggregator once the fleet is real.")
    return 0


def _enrol(options: argparse.Namespace) -> int:
    from marram.link.identity import load as load_identity

    from marram_cloud.aggregator import open_ledger
    from marram_cloud.enrolment.files import FleetFolder

    folder = FleetFolder(options.folder)
    if options.config is None:
        for name in options.device:
            print(f"{name}: {folder.enrol(name, days=options.days)[0]}")
        return 0
    config = _load(options.config)
    folder.check_aggregator(load_identity(config.broker.identity, role="aggregator"))
    ledger = open_ledger(config)
    for name in options.device:
        register = ledger.enroller(name, time.time())
        before = None if ledger.knows_device(name) else folder.enrolled(name)
        if before is not None:
            register(before)
            print(f"{name}: has its files already; this ledger knows it now")
            continue
        target, _ = folder.enrol(name, register, options.days)
        print(f"{name}: {target}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from marram_cloud.aggregator import open_ledger
    from marram_cloud.enrolment.files import FleetFolder

    folder = FleetFolder(options.folder)
    if options.config is None:
        revocations = folder.revoke(options.device)
    else:
        ledger = open_ledger(_load(options.config))
        revocations = folder.revoke(options.device, ledger.certificates_of)
        with ledger.transaction():
            ledger.revoke(revocations.serials, time.time())
    for name in options.device:
        print(f"{name}: revoked")
    print(
        f"{folder.path / 'ca.crl'}: list {revocations.number}, {len(revocations.serials)} certificates, good "
        f"until {revocations.until:%Y-%m-%d}; give it to the broker and to the aggregator"
    )
    return 0


def _renew(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    folder = FleetFolder(options.folder)
    renewed = [(path, folder.renew(path)) for path in options.identity] or folder.renew_own()
    for path, certificate in renewed:
        print(f"{path}: until {certificate.not_valid_after_utc:%Y-%m-%d}")
    return 0


def _broker_config(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    print(FleetFolder(options.folder).write_broker(tuple(options.host), options.files, options.port))
    return 0


def _devices(options: argparse.Namespace) -> int:
    from marram_cloud.aggregator import open_ledger

    for name, enrolled, revoked in open_ledger(_load(options.config)).devices():
        print(f"{name:32} enrolled {_date(enrolled)}{'  REVOKED' if revoked else ''}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from marram.logs import configure

    from marram_cloud.aggregator import Runner

    config = _load(options.config)
    configure(config.log_level, program="marram-cloud")
    runner = Runner(config)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: runner.stop())
    runner.run()
    return 0


def _rounds(options: argparse.Namespace) -> int:
    from marram_cloud.aggregator import open_ledger
    from marram_cloud.rounds.report import as_objects, as_text

    ledger = open_ledger(_load(options.config))
    print(json.dumps(as_objects(ledger), indent=1) if options.json else as_text(ledger, options.last))
    return 0


def _skip(options: argparse.Namespace) -> int:
    from marram_cloud.aggregator import open_ledger

    ledger = open_ledger(_load(options.config))
    with ledger.transaction():
        ledger.skip_to(options.to)
    print(f"the open round is round {options.to} from now on")
    return 0


def _schema(options: argparse.Namespace) -> int:
    from marram.config.json_schema import json_schema

    from marram_cloud.config.schema import Aggregator

    print(json.dumps(json_schema(Aggregator, "Marram aggregator configuration"), indent=2))
    return 0


def _load(path: Path) -> Aggregator:
    from marram.config.load import load

    from marram_cloud.config.schema import Aggregator

    return load(path, Aggregator)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marram-cloud", description="A fleet's aggregator, releases and model workshop."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    made = command(
        "init", _init, "Make a fleet: authority, release repository and keys, the aggregator's identity."
    )
    made.add_argument("folder", type=Path)
    made.add_argument("--fleet", required=True)
    made.add_argument("--region", default="main")
    made.add_argument("--models", nargs="*", default=[], help="models that will be released")
    made.add_argument(
        "--broker", nargs="+", metavar="HOST", help="also the files of a broker with these names"
    )
    made.add_argument(
        "--device-days",
        type=int,
        default=90,
        metavar="N",
        help="lifetime of certificates that devices ask for",
    )
    enrolled = command("enrol", _enrol, "Make the files that a device needs, and let it take part.")
    enrolled.add_argument("folder", type=Path, help="the fleet's folder")
    enrolled.add_argument("device", nargs="+")
    enrolled.add_argument("--days", type=float, default=730.0, help="lifetime of the certificate")
    revoked = command(
        "revoke", _revoke, "Refuse devices from now on, and write the list of revoked certificates."
    )
    revoked.add_argument("folder", type=Path, help="the fleet's folder")
    revoked.add_argument("device", nargs="*", help="none: only write the list anew")
    renewed = command("renew", _renew, "New certificates in place of old ones, for the same keys.")
    renewed.add_argument("folder", type=Path, help="the fleet's folder")
    renewed.add_argument(
        "identity", type=Path, nargs="*",
        help="a folder with device.crt or server.crt (default: the fleet folder's aggregator and broker)",
    )  # fmt: skip
    broker = command("broker-config", _broker_config, "Write Mosquitto's configuration and access rules.")
    broker.add_argument("folder", type=Path, help="the fleet's folder")
    broker.add_argument(
        "--host", nargs="+", default=(), help="the broker's names, if it has no certificate yet"
    )
    broker.add_argument("--files", type=Path, default=FILES, help="where its files will be on its machine")
    broker.add_argument("--port", type=int, default=PORT)
    enrolment.add(command("enrolment", None, "Certificates that devices ask for by themselves."))
    rounds = command("rounds", _rounds, "Show the rounds.")
    rounds.add_argument("--json", action="store_true", help="everything, as JSON")
    rounds.add_argument("--last", type=int, default=20)
    skipped = command("skip", _skip, "Give the open round a later number, after an older ledger came back.")
    skipped.add_argument("--to", type=int, required=True, help="a round that no device has done yet")
    configured = (
        rounds, skipped,
        command("devices", _devices, "List the devices."),
        command("run", _run, "Run the aggregator until it is stopped."),
    )  # fmt: skip
    for added in configured:
        added.add_argument("-c", "--config", type=Path, required=True, help="YAML file")
    for added in (enrolled, revoked):
        added.add_argument("-c", "--config", type=Path, help="the aggregator's YAML: tell its ledger at once")
    command("schema", _schema, "Print the configuration's JSON Schema, for editors.")
    released = commands.add_parser("release", help="Releases: build, sign, publish, promote.")
    releases.add_commands(released)
    workshops.add_commands(commands.add_parser("workshop", help="The model workshop."))
    return parser


if __name__ == "__main__":
    sys.exit(main())
