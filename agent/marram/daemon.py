"""The agent's whole life: put the parts together, run, stop.

sensor -> stream -> queue -> model -> outputs, with the sample store beside it; behind the link the rounds and
the releases. READY is told when the configuration is valid, the model is loaded and the stores are open, not
when there is a network.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from marram.assembly import Parts, assemble
from marram.config.schema import Agent
from marram.control import ControlServer, Handler
from marram.device.memory import release_start_pages
from marram.errors import MarramError
from marram.notify import notify, watchdog_period
from marram.reload.reloader import Reloader
from marram.sensors.readers import Readers
from marram.status import releases, status
from marram.storage import hold_folder

log = logging.getLogger(__name__)

_STALLED = 60.0


class DaemonError(MarramError):
    """A stage of the daemon broke."""


class Daemon:
    """One agent. ``run`` returns when it was stopped, or when all of its sensors have ended for good.

    Raises DaemonError when a stage broke (the service manager starts it anew), or when all sensors have ended
    and one did so by an error.
    """

    def __init__(self, config: Agent, read: Callable[[], Agent] | None = None) -> None:
        self._began = time.monotonic()
        # The main thread waits for a byte: a signal that another thread took would not end a wait for a lock.
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._asked = self._to_reload = False
        self._broken = ""
        # Before anything is opened: a second agent must not touch the outputs and stores of the first.
        self._hold = hold_folder(config.device.state, "agent")
        self._parts = assemble(config)
        self._readers = Readers(self._parts.pipeline, self._parts.sensor_errors, self._all_sensors_ended)
        self._reloader = Reloader(config, self._parts, self._readers, read or (lambda: config))

    def stop(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        self._asked = True
        self._wake()

    def reload_soon(self) -> None:
        """Ask for the configuration to be read again; may be called from a signal handler."""
        self._to_reload = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full of such bytes
            self._waker.send(b"\0")

    @property
    def wakeup(self) -> int:
        """For ``signal.set_wakeup_fd``: handlers of signals then run at once."""
        return self._waker.fileno()

    def run(self) -> None:
        """Live."""
        parts = self._parts
        with self._hold, ExitStack() as leaving:
            control = ControlServer(self._reloader.config.control_socket, self._handlers())
            leaving.callback(control.stop)
            threads = [
                threading.Thread(
                    target=self._live, args=(parts.pipeline.run,), name="inference", daemon=True
                ),
                threading.Thread(target=self._live, args=(parts.loop.run,), name="background", daemon=True),
            ]
            for thread in threads:
                thread.start()
            self._readers.start(parts.sensors)
            leaving.callback(self._wind_up, threads)
            control.start()
            if parts.updater is not None:
                parts.loop.post(parts.updater.begin)
            for link in (parts.link, parts.labels):
                if link is not None:
                    link.start()
            notify(READY="1")
            release_start_pages()
            log.info("ready after %.2f s", time.monotonic() - self._began)
            self._watch(parts)
            notify(STOPPING="1")
        if self._broken:
            raise DaemonError(self._broken)

    def _live(self, stage: Callable[[], None]) -> None:
        """A stage's thread. Without one of its stages the daemon is of no use, so it ends."""
        try:
            stage()
        except Exception as error:
            name = threading.current_thread().name
            log.exception("the %s stage broke", name)
            self._broken = f"the {name} stage broke: {error!r}; the log has the details"
            self.stop()
            self._parts.pipeline.queue.close()

    def _all_sensors_ended(self) -> None:
        """Without a cloud or training there is nothing left to do."""
        if not self._alone:
            return
        errors = [f"{name}: {error}" for name, error in self._parts.sensor_errors.items()]
        if errors:
            self._broken = "every sensor has ended, not all of them well: " + "; ".join(errors)
        self.stop()

    @property
    def _alone(self) -> bool:
        """Nothing is left to do once the sensors have ended: no cloud, no training."""
        return self._parts.link is None and self._parts.local is None

    def _watch(self, parts: Parts) -> None:
        """Until the end is asked for; systemd's watchdog is fed by the progress of every stage."""
        period = watchdog_period()
        while not self._asked:
            woken, _, _ = select.select([self._woken], [], [], period)
            if woken:
                self._woken.recv(64)
                if self._to_reload:
                    self._to_reload = False
                    self._reloader.reload_and_log()
                continue
            now = time.monotonic()
            stages = {"inference": parts.pipeline.beat, "background": parts.loop.beat}
            stalled = [name for name, beat in stages.items() if now - beat > _STALLED]
            if stalled:
                log.error("no progress for %.0f s: %s", _STALLED, ", ".join(stalled))
            elif period is not None:
                notify(WATCHDOG="1")

    def _wind_up(self, threads: list[threading.Thread]) -> None:
        """Everything that was received is predicted and stored before the process ends."""
        parts = self._parts
        self._reloader.close()
        for link in (parts.link, parts.labels):
            if link is not None:
                link.stop()
        if parts.workshop is not None:
            parts.workshop.stop()
        if parts.updater is not None:
            parts.loop.post(parts.updater.end)
        if parts.watcher is not None:
            parts.loop.post(parts.watcher.end)
        parts.loop.post(parts.installation.stop)
        parts.loop.stop()
        self._readers.stop()
        parts.pipeline.queue.close()
        for thread in threads:
            thread.join(timeout=10)
        for output in parts.pipeline.outputs.values():
            output.close()
        if parts.pipeline.store is not None:
            try:
                parts.pipeline.store.close(time.time())
            except MarramError as error:
                log.error("the last windows could not be stored: %s", error)

    def _handlers(self) -> dict[str, Handler]:
        pipeline = self._parts.pipeline
        return {
            "status": lambda request: status(self._reloader.config, self._parts),
            "releases": lambda request: releases(self._parts),
            "reload": lambda request: {"changed": self._reloader.reload().changed},
            "updates": lambda request: self._updates(str(request["do"])),
            "label": lambda request: {
                "known": pipeline.label(str(request["label"]), float(request["from"]), float(request["to"])),
                "labels": list(pipeline.labels),
            },
        }

    def _updates(self, do: str) -> dict[str, object]:
        """The operator wants to have releases looked for, or refused ones tried again."""
        updater = self._parts.updater
        if updater is None or not updater.followed:
            raise DaemonError("this device follows no releases: it has no cloud, or no root.json")
        wanted = {"check": updater.look_now, "retry": updater.retry}.get(do)
        if wanted is None:
            raise DaemonError(f"updates cannot {do!r}; they can check and retry")
        self._parts.loop.post(wanted)
        return {"asked": do}
