"""A device's updater with everything real but the sensors and the broker.

Children, files, signatures and models are real; the link hands requests to a real block server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from marram.bundle.bare import open_model
from marram.bundle.description import Description
from marram.bundle.file import Bundle
from marram.config.schema import Releases, Trial
from marram.device.clock import Clock
from marram.errors import ProgramError
from marram.inference.model import Model
from marram.loop import Loop
from marram.programs.program import ProgramOptions
from marram.releases.forms import Choices, Forms, Wanted
from marram.releases.hold import Hold
from marram.releases.installation import Installation
from marram.releases.machine import Deadlines
from marram.releases.updater import Place, Updater
from marram.stream.blocks import Windows
from marram.wire import cbor, envelope
from marram.wire.messages import Fetch, Report
from marram.wire.signed import read as read_message
from marram.wire.topics import Topics
from marram_cloud.releases.online.blocks import BlockServer

from tests.support.fleet_repository import Repository
from tests.support.identities import author
from tests.support.windows import SHOULDER, shoulder_windows

DEVICE = "device-1"
SETTINGS = Releases(spread=0.0, trial=Trial(windows=40, confirm=60))


class Inference:
    """What runs, as the pipeline would: windows are predicted by hand."""

    def __init__(self, bundle: Bundle, forms: Forms) -> None:
        self.forms = forms
        self.model = forms.load(bundle)
        self.fallback: Model | None = None
        self.misbehaved = ""
        self.predicted = self.failed = 0
        self.shadow: Callable[[Windows], None] = lambda windows: None

    def swap(self, bundle: Bundle, fallback: Bundle | None) -> None:
        model = self.forms.load(bundle)
        self.fallback = self.forms.load(fallback) if fallback is not None else None
        self.model, self.misbehaved = model, ""

    def keep(self) -> None:
        self.fallback = None

    def predict(self, windows: Windows) -> None:
        times = np.zeros(len(windows))
        try:
            predictions = self.model.predict(windows, times)
        except ProgramError as error:
            if self.fallback is None:
                self.failed += len(windows)
                return
            self.model, self.fallback, self.misbehaved = self.fallback, None, str(error)
            self.predict(windows)
            return
        self.predicted += len(predictions)
        self.shadow(windows)


@dataclass
class FakeLink:
    """Requests for blocks are answered from the repository; ``spoil`` may drop or change an answer."""

    topics: Topics
    timestamp: Path
    server: BlockServer | None = None
    max_payload: int = 16_000
    arrived: Callable[[str, bytes], None] = lambda topic, payload: None
    spoil: Callable[[Fetch, bytes], Sequence[bytes]] = lambda fetch, payload: (payload,)
    reports: list[Report] = field(default_factory=list)
    fetches: list[Fetch] = field(default_factory=list)
    bytes_in: int = 0

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        if topic == self.topics.report(DEVICE):
            self.reports.append(read_message(envelope.parse(payload, 1 << 20), Report))
        elif topic == self.topics.up(DEVICE, "fetch"):
            fetch = cbor.unpack(payload, Fetch)
            self.fetches.append(fetch)
            if self.server is not None:
                self._answer(fetch)
        return True

    def _answer(self, fetch: Fetch) -> None:
        assert self.server is not None
        missing = self.server.ask(DEVICE, fetch, self.max_payload)
        blocks = [missing] if missing else []
        while (answer := self.server.next()) is not None:
            blocks.append(answer[1])
        for block in blocks:
            for payload in self.spoil(fetch, cbor.pack(block)):
                self.bytes_in += len(payload)
                self.arrived(self.topics.down(DEVICE, "block"), payload)

    def subscribe(self, topics: tuple[str, ...]) -> None:
        if self.server is not None and self.topics.timestamp in topics:
            self.arrived(self.topics.timestamp, self.timestamp.read_bytes())

    def unsubscribe(self, topics: tuple[str, ...]) -> None: ...


@dataclass
class Rig:
    """One device. clock: Unix seconds as the machine's clock says."""

    folder: Path
    repository: Repository
    releases: Releases = SETTINGS
    configured: Path = SHOULDER
    tags: tuple[str, ...] = ()
    clock: Callable[[], float] = time.time
    minute: int = 600
    store: str = ""
    over_mqtt: bool = True
    authority: Path | None = None
    description: Description | None = None
    windows: Windows = field(default_factory=lambda: shoulder_windows(1))
    wanted: Wanted = "auto"

    def __post_init__(self) -> None:
        deadlines = Deadlines(self.releases.deadline, 240.0, self.releases.trial.deadline)
        configured = open_model(self.configured, self.description)
        self.installation = Installation.open(self.folder / "releases", configured, deadlines)
        self.forms = Forms(Choices(self.folder / "releases" / "forms.json"), ProgramOptions(), self.wanted)
        bundle, _, _, _ = self.installation.start(self.forms.load, self.clock())
        self.inference = Inference(bundle, self.forms)
        self.loop = Loop(Clock(lambda: self.installation.machine.state.floor, self.clock))
        self.topics = Topics("fleet", "region")
        server = BlockServer(self.repository.path) if self.over_mqtt else None
        self.link = FakeLink(self.topics, self.repository.layout.timestamp, server)
        self.hold = Hold(self.folder / "releases" / "hold")
        self.updater = Updater(
            settings=self.releases,
            at=self._place(configured.manifest.name),
            installation=self.installation,
            inference=self.inference,
            topics=self.topics,
            author=author("device", DEVICE),
            link=self.link,
            loop=self.loop,
            hold=self.hold,
            minute=lambda: self.minute,
            clock=self.clock,
            changed=lambda: None,
            tick=0.2,
        )
        self.inference.shadow = self.updater.trying.shadow
        self.link.arrived = lambda topic, payload: self.loop.post(
            lambda now: self.updater.arrived(topic, payload, now) and None
        )
        self.loop.add(self.updater)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)

    def _place(self, model: str) -> Place:
        return Place(
            device=DEVICE,
            tags=self.tags,
            model=model,
            root=self.repository.root,
            store=self.store,
            forms=self.forms,
            nice=0,
            description=self.description,
            authority=self.authority,
        )

    def start(self) -> None:
        self._thread.start()
        self.loop.post(self.updater.begin)
        self.loop.post(lambda now: self.updater.connected(self.link.max_payload, now))

    def stop(self, well: bool = True) -> None:
        self.loop.post(self.updater.end)
        if well:
            self.loop.post(self.installation.stop)
        self.loop.stop()
        self._thread.join(10)

    def again(self) -> Rig:
        """The same device after a start, with the same settings."""
        rig = Rig(
            self.folder, self.repository, self.releases, self.configured, self.tags, self.clock, self.minute,
            self.store, self.over_mqtt, self.authority, self.description, self.windows, self.wanted,
        )  # fmt: skip
        rig.start()
        return rig

    def check(self) -> None:
        """Have it look now."""
        self.loop.post(self.updater.look_now)

    @property
    def running(self) -> str:
        """Target path of the release that runs, "" for the configured bundle."""
        running = self.installation.machine.running
        return running.release.target if running else ""

    @property
    def told(self) -> tuple[str, str]:
        """(stage, reason) of the last release."""
        stage, _, reason, _ = self.installation.machine.report()
        return stage, reason

    def until(self, what: str, holds: Callable[[], bool], feed: bool = True) -> None:
        """Predict windows until it is so."""
        windows = self.windows
        end, at = time.monotonic() + 60, 0
        while not holds():
            assert time.monotonic() < end, (what, self.told, self.updater.problem)
            if feed:
                self.inference.predict(windows[at : at + 4])
                at = (at + 4) % (len(windows) - 4)
            time.sleep(0.02)

    def until_stage(self, stage: str, **options: bool) -> str:
        """The reason."""
        self.until(stage, lambda: self.told[0] == stage, **options)
        return self.told[1]


@contextmanager
def rig(folder: Path, repository: Repository, **settings: object) -> Iterator[Rig]:
    """A device that runs until the end of the block."""
    made = Rig(folder, repository, **settings)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop()
