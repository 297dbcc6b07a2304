"""The device's releases as they stand on its disk: the machine, its saved state, the slots.

What inference begins with is decided here, before there is any network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from marram import __version__
from marram.bundle.file import Bundle
from marram.errors import BundleError, ProgramError, StorageError
from marram.releases import machine as machines
from marram.releases import state as states
from marram.releases.machine import Action, Damaged, Deadlines, Event, Machine, Misbehaved, Started
from marram.releases.slots import Slots
from marram.releases.state import Installed, State
from marram.storage import clear_unfinished

log = logging.getLogger(__name__)

Loaded = TypeVar("Loaded")


@dataclass
class Installation:
    """See the module's docstring. pending: what is to be done once the daemon runs."""

    slots: Slots
    machine: Machine
    pending: list[Action] = field(default_factory=list)
    _saved: State | None = None

    @staticmethod
    def open(folder: Path, configured: Bundle, deadlines: Deadlines) -> Installation:
        """What is in ``folder``, beginning anew where nothing is. Raises StorageError."""
        clear_unfinished(folder)
        state = states.load(folder / "state.json")
        machine = Machine(state, deadlines, __version__, configured.digest)
        return Installation(Slots(folder, configured), machine, _saved=state)

    def start(
        self, load: Callable[[Bundle, Path], Loaded], now: float, curable: bool = False
    ) -> tuple[Bundle, Path, Loaded | None, str]:
        """(bundle, its file, what ``load`` made of it, "") for inference to begin with.

        load: given the bundle and its file. A committed release whose file was changed, or that does not load
        any more, is left for the one before it, in the end for the configured bundle. If that one does not
        load: (it, its file, None, the reason) where a release may still come (curable); else raises what
        ``load`` raised.
        """
        self.pending += self.handle(Started(), now)
        while (running := self.machine.running) is not None:
            try:
                bundle = self.slots.load(running.release, running.slot)
            except BundleError as error:
                log.error("%s; what ran before it runs", error)
                self.pending += self.handle(Damaged(str(error)), now)
                continue
            try:
                path = self.slots.path(running.slot)
                return bundle, path, load(bundle, path), ""
            except (BundleError, ProgramError) as error:
                log.error("%s does not load: %s; what ran before it runs", running.release.target, error)
                self.pending += self.handle(Misbehaved(f"does not load any more: {error}"), now)
        configured = self.slots.configured
        try:
            return configured, Path(configured.source), load(configured, Path(configured.source)), ""
        except (BundleError, ProgramError) as error:
            if not curable:
                raise
            log.error("%s does not load: %s; a release can heal it", configured.source, error)
            return configured, Path(configured.source), None, f"does not load: {error}"

    def stop(self, now: float) -> None:
        """The daemon ends as it was asked to."""
        self.handle(machines.Stopped(), now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Give the machine an event and save what it says. What cannot be saved is saved with the next."""
        actions = self.machine.handle(event, now)
        try:
            self.save()
        except StorageError as error:
            # Every step can be taken again after a restart; only what runs must be what is saved.
            if isinstance(event, machines.Ran):
                raise
            log.error("the state of releases could not be saved: %s", error)
        return actions

    def save(self) -> None:
        """Raises StorageError."""
        if self.machine.state != self._saved:
            states.save(self.slots.folder / "state.json", self.machine.state)
            self._saved = self.machine.state

    def bundle(self, installed: Installed | None) -> Bundle:
        """A release that ran before, or the configured bundle. Raises BundleError."""
        return (
            self.slots.load(installed.release, installed.slot)
            if installed is not None
            else self.slots.configured
        )

    @property
    def running_file(self) -> Path:
        """Of the release or bundle that inference runs."""
        running = self.machine.running
        return Path(self.slots.configured.source) if running is None else self.slots.path(running.slot)
