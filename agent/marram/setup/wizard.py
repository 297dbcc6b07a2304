"""Asks what was not given, tries the broker, writes the file and checks it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from marram.bundle.file import read
from marram.bundle.manifest import Manifest
from marram.config.load import load
from marram.config.schema import Agent, host_name
from marram.doctor.examine import Result, text
from marram.doctor.finding import Severity
from marram.doctor.probe import Target, probe
from marram.errors import BundleError, ConfigError, LinkError, SensorError
from marram.link.broker import Broker
from marram.link.identity import is_enrolled
from marram.sensors.sensor import SENSORS, SensorContext
from marram.setup import boards, sensors
from marram.setup.plan import Answers
from marram.setup.plan import text as plan
from marram.setup.sensors import SetupError
from marram.storage import replace_file
from marram.stream.sources import resolve

DEFAULT_BUNDLE = Path("usr/share/marram/examples/host/host.marram")


@dataclass
class Wizard:
    """What was given on the command line; None is asked for, or takes its default with ``yes``.

    root: of the file system; tests give a tree. ask: shows a question and gives the answer.
    """

    path: Path
    yes: bool = False
    replace: bool = False
    name: str | None = None
    board: str | None = None
    sensors: Sequence[str] = ()
    bundle: Path | None = None
    broker: str | None = None
    identity: Path = Path("/var/lib/marram/identity")
    state: Path = Path("/var/lib/marram")
    root: Path = Path("/")
    now: float = 0.0
    ask: Callable[[str], str] = input
    say: Callable[[str], None] = field(default=print)

    def run(self) -> int:
        """0 when the file is written and fits; 1 when not. Raises SetupError."""
        if not self.yes and not sys.stdin.isatty():
            raise SetupError("nobody can be asked here; give what differs from the defaults, and --yes")
        if self.path.exists() and not self._may_replace():
            self.say(f"{self.path} was left as it is")
            return 1
        bundle, manifest = self._bundle()
        answers = Answers(
            name=self._value(self.name, "Name of this device", host_name()),
            board=self._board(),
            sensors=self._sensors(manifest),
            bundle=bundle,
            broker=self._broker(),
            identity=self.identity if is_enrolled(self.identity) else None,
            state=self.state,
        )
        written = plan(answers, manifest, self.root)
        self.say(f"\n{written}")
        if not self._agreed(f"Write this to {self.path}?", True):
            self.say("nothing was written")
            return 1
        if self.path.exists():
            backup = self.path.with_name(f"{self.path.name}.before-setup")
            replace_file(backup, self.path.read_bytes(), self.path.stat().st_mode & 0o777)
            self.say(f"the old file is {backup}")
        replace_file(self.path, written.encode())
        fits = self._fits(manifest)
        self._next(answers)
        return 0 if fits else 1

    def _may_replace(self) -> bool:
        if self.replace:
            return True
        if self.yes:
            raise SetupError(
                f"{self.path} is there already; --replace writes it anew and keeps the old one beside it"
            )
        return self._agreed(
            f"{self.path} is there already. Write it anew, and keep the old one beside it?", False
        )

    def _board(self) -> str:
        found, called = boards.find(self.root)
        there = boards.available(self.path)
        if self.board is not None:
            if self.board in ("", "none"):
                return ""
            if self.board not in there:
                raise SetupError(
                    f"there is no board {self.board!r}; there are: {', '.join(sorted(there)) or 'none'}"
                )
            return self.board
        if found and found not in there:
            self.say(f"This is {called}, a {found}; its settings are not installed here, so none are used.")
            return ""
        if found and self._agreed(f"This is {called}. Use the settings of {found}?", True):
            return found
        if not there or self.yes:
            return ""
        names = sorted(there)
        listed = "\n".join(f"  {number}  {name}" for number, name in enumerate(names, 1))
        chosen = self._chosen(f"Boards:\n{listed}\nWhich (nothing for none)?", len(names), one=True)
        return names[chosen[0]] if chosen else ""

    def _sensors(self, manifest: Manifest) -> Sequence[str]:
        """As written. Raises SetupError when one that was given is none."""
        for one in self.sensors:
            sensors.config(one, manifest.channel_names, self.root)
        if self.sensors:
            return self.sensors
        found = sensors.find(self.root)
        if self.yes:
            return ["host"]
        buses = sensors.buses(self.root)
        if buses:
            self.say(
                f"I2C: {', '.join(buses)}. What is on them has to be written by hand, see docs/sensors.md."
            )
        listed = "\n".join(f"  {number}  {one.words}" for number, one in enumerate(found, 1))
        self.say(f"The model wants: {', '.join(manifest.channel_names)}")
        question = f"Sensors found:\n{listed}\nWhich (numbers, nothing for {len(found)})?"
        return [found[place].written for place in self._chosen(question, len(found)) or [len(found) - 1]]

    def _bundle(self) -> tuple[Path, Manifest]:
        """Raises SetupError when a given one cannot be read; asks again for an answered one."""
        path = self.bundle or self.root / DEFAULT_BUNDLE
        asked = self.bundle is None and not self.yes
        while True:
            if asked:
                path = Path(self._value(None, "Model bundle", str(path)))
            try:
                return path.absolute(), read(path).manifest
            except BundleError as error:
                if not asked:
                    raise SetupError(f"{error}; name a bundle with --bundle") from error
                self.say(str(error))

    def _broker(self) -> str:
        """The URL, "" for none; tried, and asked for again where nobody is reached."""
        url = self.broker
        while True:
            if url is None:
                url = (
                    ""
                    if self.yes
                    else self.ask("MQTT broker (mqtt://HOST or mqtts://HOST, nothing for none): ").strip()
                )
            if not url:
                return ""
            try:
                reached = self._reached(url)
            except LinkError as error:
                if self.broker is not None:
                    raise SetupError(str(error)) from error
                self.say(str(error))
                url = None
                continue
            if reached or self.yes or self._agreed("Use this broker all the same?", False):
                return url
            url = self.broker = None

    def _reached(self, url: str) -> bool:
        """Try its name, port and TLS; the login is for what will be enrolled or configured."""
        Broker.parse(url)
        target = Target("broker", url, "marram-setup", logged_in=True)
        findings = [one for one in probe(target, self.now) if not one.name.endswith("login")]
        self.say(text(Result("broker", tuple(findings))))
        return all(one.severity is not Severity.ERROR for one in findings)

    def _fits(self, manifest: Manifest) -> bool:
        """Whether every channel of the model has a source, as the daemon will find it."""
        config = load(self.path, Agent)
        context = SensorContext(config.device.name, config.board)
        try:
            offered = {one.name: SENSORS.open(one, context).channels for one in config.sensors}
            resolve(manifest.channel_names, offered, config.stream)
        except (ConfigError, SensorError) as error:
            self.say(f"{self.path}: written, but the agent will not start with it yet:\n{error}")
            return False
        self.say(f"{self.path}: written and valid")
        return True

    def _next(self, answers: Answers) -> None:
        steps = [
            "marram system dropins --write",
            "systemctl enable --now marram",
            "marram doctor",
            "marram status",
        ]
        if answers.broker and answers.identity is None:
            self.say(
                f"To join a fleet: `marram enrol --url https://... --token ...`, then in {self.path}:\n"
                f"  cloud: {{broker: '{answers.broker}', identity: {self.identity}}}"
            )
        self.say("Next:\n" + "\n".join(f"  {step}" for step in steps))

    def _value(self, given: str | None, question: str, default: str) -> str:
        if given is not None or self.yes:
            return given if given is not None else default
        return self.ask(f"{question} [{default}]: ").strip() or default

    def _agreed(self, question: str, default: bool) -> bool:
        if self.yes:
            return default
        while True:
            answer = self.ask(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().lower()
            if answer in ("", "y", "yes", "n", "no"):
                return default if not answer else answer.startswith("y")

    def _chosen(self, question: str, count: int, one: bool = False) -> list[int]:
        """Places from 0 on; asks until the answer is one."""
        while True:
            words = self.ask(f"{question} ").replace(",", " ").split()
            if all(word.isdecimal() and 1 <= int(word) <= count for word in words) and not (
                one and len(words) > 1
            ):
                return list(dict.fromkeys(int(word) - 1 for word in words))
            self.say(f"numbers from 1 to {count}, please")
