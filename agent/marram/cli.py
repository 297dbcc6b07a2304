"""The command line ``marram``: one function a command, no logic."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from marram import __version__
from marram.errors import ConfigError, MarramError

if TYPE_CHECKING:
    from marram.config.layers import Over
    from marram.config.schema import Agent
    from marram.releases.hold import Hold

DEFAULT_CONFIG = Path("/etc/marram/marram.yaml")
_LONGEST_RELOAD = 60.0  # seconds; models may be loaded anew
DEFAULT_IDENTITY = Path("/var/lib/marram/identity")
_USUAL_SOCKET = Path("/var/lib/marram/marram.sock")


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


def _run(options: argparse.Namespace) -> int:
    from marram.logs import configure, let_go

    config = _configuration(options)
    configure(config.device.log_level, config.device.name)
    from marram.daemon import Daemon

    daemon = Daemon(config, lambda: _configuration(options))
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: daemon.stop())
    signal.signal(signal.SIGHUP, lambda *_: daemon.reload_soon())
    signal.set_wakeup_fd(daemon.wakeup, warn_on_full_buffer=False)
    daemon.run()
    let_go()
    return 0


def _check(options: argparse.Namespace) -> int:
    from marram.config.load import load_all
    from marram.config.schema import Agent

    layers = load_all(options.config, Agent, over=_over(options)).merged.sources
    others = [source.name for source in layers if source.name != str(options.config)]
    print(f"{options.config}: valid" + (f", with {', '.join(others)}" if others else ""))
    return 0


def _config_show(options: argparse.Namespace) -> int:
    from marram.config.load import load_all
    from marram.config.schema import Agent
    from marram.config.show import show

    print(
        show(load_all(options.config, Agent, over=_over(options), check_files=False), options.origins), end=""
    )
    return 0


def _config_migrate(options: argparse.Namespace) -> int:
    from marram.config.layers import SHIPPED, files_of, read_text
    from marram.config.migrate import migrate

    files = [options.file] if options.file is not None else files_of(options.config)
    # What a package brought is the package's to renew.
    found = [migrate(file, read_text(file)) for file in files if SHIPPED not in file.resolve().parents]
    old = [one for one in found if one.before != one.after]
    for one in old:
        print(one.diff(), end="")
    if not old:
        print("nothing to do: the configuration is of this version")
    elif options.write:
        for one in old:
            print(f"{one.path}: written; the old one is {one.write()}")
    else:
        print("not written: run it again with --write")
    return 0


def _schema(options: argparse.Namespace) -> int:
    from marram.config.json_schema import json_schema
    from marram.config.schema import Agent

    print(json.dumps(json_schema(Agent, "Marram agent configuration"), indent=2))
    return 0


def _dropins(options: argparse.Namespace) -> int:
    from marram.system.dropins import dropins
    from marram.system.install import FOLDER, write

    texts = dropins(_configuration(options, check_files=False))
    if not options.write:
        print("\n".join(f"# {FOLDER / unit}.d:\n{text}" for unit, text in texts.items() if text), end="")
        return 0
    changed = write(texts, FOLDER)
    print("\n".join(map(str, changed)) or "nothing to change")
    if changed:
        print("now: systemctl daemon-reload && systemctl restart marram")
    return 0


def _enrol(options: argparse.Namespace) -> int:
    from marram.config.schema import host_name
    from marram.enrolment.enrol import Wanted, enrol

    token = sys.stdin.readline().strip() if options.token == "-" else options.token
    name = options.name or host_name()
    wanted = Wanted(options.url, token, name, options.identity, options.key, options.patience)
    done = enrol(wanted, lambda text: print(text, file=sys.stderr))
    subject, until = done.subject, done.certificate.not_valid_after_utc
    print(
        f"{subject.name}: enrolled in fleet {subject.fleet!r}, region {subject.region!r}, until "
        f"{until:%Y-%m-%d}: {options.identity}"
    )
    if not done.has_root:
        print(
            f"The fleet has no root.json yet, so this device cannot receive releases; once it has one, "
            f"put it into {options.identity} and start the agent anew."
        )
    return 0


def _status(options: argparse.Namespace) -> int:
    from marram.control import ask
    from marram.status import text

    answer = ask(_socket(options), {"command": "status"})
    print(json.dumps(answer, indent=2) if options.json else text(answer))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from marram.doctor.examine import builtins, examine, exit_status, text, worst
    from marram.doctor.machine import this_machine

    results = []
    for result in examine(this_machine(options.config, options.publish, _over(options)), options.check):
        results.append(result)
        if not options.json and result.findings:
            print(text(result), flush=True)
    if options.json:
        print(json.dumps(builtins(results), indent=2))
    return exit_status(worst(results))


def _diag(options: argparse.Namespace) -> int:
    from marram.diag.archive import DiagError, listed, write
    from marram.diag.collect import collect, default_name
    from marram.doctor.machine import this_machine

    over = _over(options)
    machine = this_machine(options.config, over=over)
    files, path = collect(machine, over), options.output or default_name(machine)
    print(listed(files))
    if options.list:
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise DiagError("nothing was written: nobody can be asked; --yes writes it, --list only lists it")
        if input(f"Write this to {path}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was written")
            return 1
    write(path, files)
    print(f"{path}: written; look into it before you send it: tar xzf {path}")
    return 0


def _setup(options: argparse.Namespace) -> int:
    from marram.setup.wizard import Wizard

    return Wizard(
        path=options.config,
        yes=options.yes,
        replace=options.replace,
        name=options.name,
        board=options.board,
        sensors=options.sensor,
        bundle=options.bundle,
        broker=options.broker,
        identity=options.identity,
        state=options.state,
        root=options.root,
        now=time.time(),
    ).run()


def _inspect(options: argparse.Namespace) -> int:
    from marram.inspection.inspect import inspect

    print(inspect(options.file))
    return 0


def _releases(options: argparse.Namespace) -> int:
    from marram.control import ask
    from marram.status import releases_text

    answer = ask(_socket(options), {"command": "releases"})
    print(json.dumps(answer, indent=2) if options.json else releases_text(answer))
    return 0


def _hold(options: argparse.Namespace) -> int:
    hold = _hold_of(options)
    hold.set(options.reason)
    print(f"{hold.path}: no release takes over until `marram updates resume`")
    return 0


def _resume(options: argparse.Namespace) -> int:
    print("updates go on" if _hold_of(options).lift() else "updates were not held")
    return 0


def _hold_of(options: argparse.Namespace) -> Hold:
    from marram.releases.hold import Hold

    return Hold(_configuration(options, check_files=False).device.state / "releases" / "hold")


def _ask_updates(options: argparse.Namespace) -> int:
    from marram.control import ask

    ask(_socket(options), {"command": "updates", "do": options.do})
    print("asked; `marram releases` shows what comes of it")
    return 0


def _reload(options: argparse.Namespace) -> int:
    from marram.control import NotRunningError, ask

    try:
        answer = ask(_socket(options), {"command": "reload"}, timeout=_LONGEST_RELOAD)
    except NotRunningError as error:
        hint = "; if device.state or control.socket changed, restart the agent"
        raise NotRunningError(f"{error}{hint}") from error
    print(f"changed: {', '.join(answer['changed'])}" if answer["changed"] else "nothing has changed")
    return 0


def _label(options: argparse.Namespace) -> int:
    from marram.control import ControlError, ask

    end = options.end if options.end is not None else time.time()
    start = options.start if options.start is not None else end - options.last
    answer = ask(_socket(options), {"command": "label", "label": options.label, "from": start, "to": end})
    if not answer["known"]:
        raise ControlError(f"the model has no label {options.label!r}; it has: {', '.join(answer['labels'])}")
    print(f"{options.label} from {start:.1f} to {end:.1f}")
    return 0


def _socket(options: argparse.Namespace) -> Path:
    if options.socket is not None:
        return Path(options.socket)
    try:
        return _configuration(options, check_files=False).control_socket
    except ConfigError as error:
        # A mistake in the YAML must not keep anybody from asking the agent that runs with what stood before.
        if options.config != DEFAULT_CONFIG or not _USUAL_SOCKET.exists():
            raise
        print(error, file=sys.stderr)
        return _USUAL_SOCKET


def _configuration(options: argparse.Namespace, check_files: bool = True) -> Agent:
    from marram.config.load import load
    from marram.config.schema import Agent

    return load(options.config, Agent, over=_over(options), check_files=check_files)


def _over(options: argparse.Namespace) -> Over:
    """What stands above the files."""
    from marram.config.layers import Over

    return Over(os.environ, tuple(getattr(options, "set", ())))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="marram", description="Runs int8 models on sensor streams and learns on the device."
    )
    parser.add_argument("--version", action="version", version=f"marram {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    def config(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "-c", "--config", type=Path, default=DEFAULT_CONFIG, help=f"YAML file (default {DEFAULT_CONFIG})"
        )

    def layered(added: argparse.ArgumentParser) -> None:
        config(added)
        added.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="above all files and the environment, such as device.name=press-07; may be repeated",
        )

    layered(command("run", _run, "Run the agent until it is stopped."))
    layered(command("check", _check, "Check a configuration and say everything that is wrong with it."))
    _add_config(
        command("config", None, "Show the configuration as it takes effect, or renew it."), config, layered
    )
    command("schema", _schema, "Print the configuration's JSON Schema, for editors.")
    _add_enrol(command("enrol", _enrol, "Get this device's identity from its fleet's enrolment server."))
    shown = command("status", _status, "Ask the running agent how it is.")
    shown.add_argument("--json", action="store_true", help="everything, as JSON")
    _add_help(command, layered)
    about = command("model", None, "Look at model files.").add_subparsers(required=True, metavar="WHAT")
    looked = about.add_parser("inspect", help="what an ONNX or TFLite file wants, and YAML that runs it")
    looked.add_argument("file", type=Path)
    looked.set_defaults(command=_inspect)
    released = command("releases", _releases, "Show which release runs here, and what became of others.")
    released.add_argument("--json", action="store_true", help="everything, as JSON")
    system = command("system", None, "What the operating system must allow.")
    opening = system.add_subparsers(required=True, metavar="WHAT")
    dropins = opening.add_parser("dropins", help="what the systemd units must open for the configuration")
    dropins.add_argument("--write", action="store_true", help="write them to where systemd reads them")
    dropins.set_defaults(command=_dropins)
    config(dropins)
    updates = command("updates", None, "Hold updates, or ask for them.")
    doing = updates.add_subparsers(required=True, metavar="WHAT")
    held = doing.add_parser("hold", help="let no release take over")
    held.add_argument("reason", nargs="?", default="by hand")
    held.set_defaults(command=_hold)
    resumed = doing.add_parser("resume", help="let releases take over again")
    resumed.set_defaults(command=_resume)
    asked = []
    for do, text in (("check", "look for releases now"), ("retry", "try refused releases again")):
        asked.append(doing.add_parser(do, help=text))
        asked[-1].set_defaults(command=_ask_updates, do=do)
    for added in (held, resumed):
        config(added)
    reloaded = command("reload", _reload, "Have the running agent take its changed configuration.")
    labelled = command("label", _label, "Say what a span of time was, for training.")
    labelled.add_argument("label", help="one of the model's labels")
    labelled.add_argument("--from", dest="start", type=float, help="begin, Unix seconds")
    labelled.add_argument("--to", dest="end", type=float, help="end, Unix seconds (default: now)")
    labelled.add_argument("--last", type=float, default=60.0, help="seconds before the end (default 60)")
    for added in (shown, released, *asked, reloaded, labelled):
        config(added)
        added.add_argument(
            "--socket", help="the agent's control socket, instead of reading the configuration"
        )
    return parser


def _add_config(
    added: argparse.ArgumentParser, config: Callable[..., None], layered: Callable[..., None]
) -> None:
    about = added.add_subparsers(required=True, metavar="WHAT")
    whole = about.add_parser("show", help="print all of it, defaults too, as YAML")
    whole.add_argument("--origins", action="store_true", help="say where each value comes from")
    whole.set_defaults(command=_config_show)
    layered(whole)
    renewed = about.add_parser("migrate", help="rewrite files of an older version; shows what would change")
    renewed.add_argument("file", nargs="?", type=Path, help="one file (default: all layers that are files)")
    renewed.add_argument(
        "--write", action="store_true", help="do it, and keep a copy of the old file beside it"
    )
    renewed.set_defaults(command=_config_migrate)
    config(renewed)


def _add_help(command: Callable[..., argparse.ArgumentParser], layered: Callable[..., None]) -> None:
    """What helps at the first start, and when something is wrong."""
    _add_setup(command("setup", _setup, "Write the YAML of a new device: what it is and has."))
    examined = command("doctor", _doctor, "Look for what is wrong with this device, and say what to do.")
    examined.add_argument("check", nargs="*", help="checks to make (default: all)")
    examined.add_argument("--json", action="store_true", help="everything, as JSON")
    examined.add_argument(
        "--publish", action="store_true", help="send an empty message on topics of MQTT outputs"
    )
    layered(examined)
    diag = command("diag", _diag, "Write an archive for a support ticket, without secrets and measurements.")
    diag.add_argument(
        "-o", "--output", type=Path, help="file to write (default: here, named after the device)"
    )
    diag.add_argument("--list", action="store_true", help="only list what would be in it")
    diag.add_argument("--yes", action="store_true", help="write it without asking")
    layered(diag)


def _add_setup(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, help=f"file to write (default {DEFAULT_CONFIG})"
    )
    added.add_argument("--yes", action="store_true", help="ask nothing; what is not given takes its default")
    added.add_argument("--replace", action="store_true", help="write over a file, and keep it beside")
    added.add_argument("--name", help="of the device (default: the host's name)")
    added.add_argument(
        "--board", help="board whose settings are used, or none (default: the one that is found)"
    )
    added.add_argument(
        "--sensor",
        action="append",
        default=[],
        help="host, serial:PORT, serial:PORT@BAUD, iio:DEVICE or csv:FILE; may be repeated (default: host)",
    )
    added.add_argument("--bundle", type=Path, help="model to run (default: the example that is installed)")
    added.add_argument("--broker", help="mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    added.add_argument("--identity", type=Path, default=DEFAULT_IDENTITY, help=argparse.SUPPRESS)
    added.add_argument("--state", type=Path, default=Path("/var/lib/marram"), help=argparse.SUPPRESS)
    added.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)


def _add_enrol(added: argparse.ArgumentParser) -> None:
    added.add_argument("--url", required=True, help="of the enrolment server, https://HOST:8443")
    added.add_argument(
        "--token", required=True, help="that the fleet's operator made; - reads it from standard input"
    )
    added.add_argument("--name", help="of the device in the fleet (default: the host's name)")
    added.add_argument(
        "--identity", type=Path, default=DEFAULT_IDENTITY, help=f"folder to make (default {DEFAULT_IDENTITY})"
    )
    added.add_argument(
        "--key",
        default="file",
        help="where the key is: file (made here), credential:NAME, pkcs11:URI",
    )
    added.add_argument(
        "--patience", type=float, default=600.0, help="seconds to try when no answer comes (default 600)"
    )


if __name__ == "__main__":
    sys.exit(main())
