"""``marram-cloud enrolment ...``: one function a command, no logic."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from marram_cloud.enrolment.authority import EnrolmentError

_LOCAL = ("localhost", "127.0.0.1")


def add(parser: argparse.ArgumentParser) -> None:
    """The commands below ``marram-cloud enrolment``."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("folder", type=Path, help="the fleet's folder")
        added.set_defaults(command=function)
        return added

    served = command("serve", _serve, "Give certificates to devices by EST (RFC 7030), until it is stopped.")
    served.add_argument("--listen", default="127.0.0.1:8443", metavar="ADDRESS:PORT")
    served.add_argument(
        "--host", nargs="+", default=_LOCAL, help="names and addresses by which devices reach this server"
    )
    made = command("token", _token, "Make a token that a device gets its first certificate with.")
    whom = made.add_mutually_exclusive_group(required=True)
    whom.add_argument("--device", metavar="NAME", help="good once, for this device only")
    whom.add_argument("--count", type=int, metavar="N", help="good for so many new devices of any name")
    made.add_argument("--expires", default="24h", metavar="DURATION", help="how long it can be used")
    command("tokens", _tokens, "List the tokens.")
    withdrawn = command("withdraw", _withdraw, "Make a token useless.")
    withdrawn.add_argument("id", help="the token's id: its second part")
    command("certificates", _certificates, "List the certificates that devices were given.")


def _serve(options: argparse.Namespace) -> int:
    from marram.logs import configure

    from marram_cloud.enrolment.files import FleetFolder
    from marram_cloud.enrolment.server import serve

    configure("info", program="marram-cloud")
    host, port = _address(options.listen)
    serve(FleetFolder(options.folder), host, port, tuple(options.host))
    return 0


def _token(options: argparse.Namespace) -> int:
    from marram.config.values import read_duration
    from marram.wire import certificates
    from marram.wire.tokens import Token

    from marram_cloud.enrolment import authority
    from marram_cloud.enrolment.files import FleetFolder, check_device

    folder, now = FleetFolder(options.folder), time.time()
    device = None if options.device is None else check_device(options.device)
    count = 1 if options.count is None else options.count
    if count < 1:
        raise EnrolmentError(f"--count {count}: expected at least 1")
    try:
        seconds = read_duration(options.expires)
    except ValueError as error:
        raise EnrolmentError(f"--expires {options.expires}: expected a duration such as 24h or 7d") from error
    token = Token.new(certificates.der(authority.load(folder.path).certificate))
    with folder.registry() as registry, registry.transaction():
        registry.add_token(token, device, count, now, now + seconds)
    print(token)
    return 0


def _tokens(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    with FleetFolder(options.folder).registry() as registry:
        for one in registry.tokens():
            whom = f"device {one.device}" if one.device else "any new device"
            print(
                f"{one.id}  {one.state(time.time()):9}  used {one.used} of {one.count}  "
                f"until {_date(one.expires)}  {whom}"
            )
    return 0


def _withdraw(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    with FleetFolder(options.folder).registry() as registry, registry.transaction():
        registry.withdraw(options.id, time.time())
    print(f"{options.id}: nobody gets a certificate with it any more")
    return 0


def _certificates(options: argparse.Namespace) -> int:
    from marram_cloud.enrolment.files import FleetFolder

    with FleetFolder(options.folder).registry() as registry:
        for one in registry.certificates():
            until = one.certificate.not_valid_after_utc
            state = "  REVOKED" if one.revoked else "  ended" if until < datetime.now(UTC) else ""
            print(f"{one.name:32} issued {_date(one.issued)}  until {until:%Y-%m-%d %H:%M}{state}")
    return 0


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise EnrolmentError(f"--listen {text}: expected ADDRESS:PORT, such as 127.0.0.1:8443 or [::]:8443")
    return host.strip("[]"), int(port)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
