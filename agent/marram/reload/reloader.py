"""Does what a plan says to the parts of a running daemon: all of it, or nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from marram.assembly import (
    Parts,
    fallback,
    label_link,
    make_forms,
    make_stream,
    open_sensors,
    output_names,
    own_parameters,
    place,
    program_options,
    store_settings,
)
from marram.config.schema import Agent
from marram.errors import MarramError
from marram.inference.model import Model
from marram.link.mqtt import MqttLink
from marram.notify import notify
from marram.outputs.output import OUTPUTS, Output
from marram.releases.swap import Swap
from marram.reload.changes import Plan, plan
from marram.sensors.readers import Readers
from marram.sensors.sensor import Sensor
from marram.stream.stream import Stream

log = logging.getLogger(__name__)


class ReloadError(MarramError):
    """The configuration cannot be taken while the daemon runs; nothing was changed."""


@dataclass(frozen=True)
class _Models:
    """What inference is to run. swaps: of the pipeline when they were loaded."""

    model: Model | None
    fallback: Model | None
    swaps: int


@dataclass
class _Ready:
    """What was opened for the new configuration and is not used yet."""

    sensors: dict[str, Sensor]
    stream: Stream | None
    models: _Models | None
    labels: MqttLink | None


class Reloader:
    """config: what the daemon runs with. read: the configuration as it is written now."""

    def __init__(self, config: Agent, parts: Parts, readers: Readers, read: Callable[[], Agent]) -> None:
        self.config = config
        self._parts, self._readers, self._read = parts, readers, read
        self._lock = threading.Lock()
        self._closed = False

    def reload(self) -> Plan:
        """Read the configuration again and take what changed.

        Raises MarramError with the reason; everything goes on as before then.
        """
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            return self._reload()
        finally:
            notify(READY="1")

    def reload_and_log(self) -> None:
        """The same for who hears of nothing but the log."""
        try:
            changed = self.reload().changed
        except MarramError as error:
            log.error("the configuration was not taken, everything goes on as before:\n%s", error)
        except Exception:
            log.exception("the configuration was not taken")
        else:
            log.info("configuration taken; changed: %s", ", ".join(changed) or "nothing")

    def close(self) -> None:
        """The daemon ends: nothing is taken any more."""
        with self._lock:
            self._closed = True

    def _reload(self) -> Plan:
        with self._lock:
            if self._closed:
                raise ReloadError("the agent is stopping")
            new = self._read()
            what = plan(self.config, new)
            if what.refused:
                needs = "need" if len(what.refused) > 1 else "needs"
                raise ReloadError(f"nothing was changed: {', '.join(what.refused)} {needs} a restart")
            ready = self._prepare(new, what)
            self._commit(new, what, ready)
            self.config = new
            return what

    def _prepare(self, new: Agent, what: Plan) -> _Ready:
        """Whatever can fail."""
        parts = self._parts
        opened = open_sensors(new, (one for one in new.sensors if one.name in what.begun))
        sensors = {one.name: opened.get(one.name) or parts.sensors[one.name] for one in new.sensors}
        stream = make_stream(new, parts.manifest, sensors) if what.stream else None
        models = self._models(new) if what.model else None
        wanted = what.labels and new.labels.mqtt is not None
        labels = label_link(new, parts.pipeline) if wanted else None
        return _Ready(sensors, stream, models, labels)

    def _models(self, new: Agent) -> _Models:
        """What runs now, loaded with the new options. Raises BundleError or ProgramError."""
        installation, swaps = self._parts.installation, self._parts.pipeline.swaps
        bundle = installation.bundle(installation.machine.running)
        if new.model.parameters == "own":
            own = own_parameters(new, bundle)
            return _Models(own.model, own.fallback, swaps) if own is not None else _Models(None, None, swaps)
        forms = make_forms(new, installation.slots.configured)
        model = forms.load(bundle, installation.running_file)
        return _Models(model, fallback(new, installation), swaps)

    def _commit(self, new: Agent, what: Plan, ready: _Ready) -> None:
        parts, pipeline = self._parts, self._parts.pipeline
        if what.outputs:
            # First, because an output may still refuse to be opened.
            self._outputs(new)
        logging.getLogger().setLevel(new.device.log_level.upper())
        self._settle(new)
        if ready.models is not None:
            self._run(new, ready.models)
        pipeline.max_batch = new.model.max_batch
        pipeline.queue.resize(new.model.queue)
        self._readers.replace(what.ended)
        parts.sensors = ready.sensors
        if ready.stream is not None:
            pipeline.redirect(ready.stream)
        self._readers.start({name: ready.sensors[name] for name in what.begun})
        if what.labels:
            self._labels(ready.labels)

    def _outputs(self, new: Agent) -> None:
        """Outputs that are as before stay open. Raises MarramError, and all stay as they are."""
        pipeline = self._parts.pipeline
        kept: list[Output] = []

        def make() -> dict[str, Output]:
            old = list(zip(output_names(self.config).values(), pipeline.outputs.values(), strict=True))
            outputs: dict[str, Output] = {}
            opened: list[Output] = []
            try:
                for name, config in output_names(new).items():
                    same = next((pair for pair in old if pair[0] == config), None)
                    if same is not None:
                        old.remove(same)
                        kept.append(same[1])
                        outputs[name] = same[1]
                    else:
                        outputs[name] = OUTPUTS.open(config, self._parts.outputs_know)
                        opened.append(outputs[name])
            except Exception:
                _close(opened)
                raise
            return outputs

        before = list(pipeline.outputs.values())
        pipeline.tell_to(make)
        _close([output for output in before if output not in kept])

    def _settle(self, new: Agent) -> None:
        """Settings that the parts look up when they need them."""
        parts = self._parts
        learning, installation = new.learning, parts.installation
        if learning is not None and parts.workshop is not None:
            parts.workshop.config = learning
            parts.workshop.store.settle(store_settings(learning))
        if (watcher := parts.watcher) is not None:
            parts.loop.post(lambda now: watcher.settle(new.watch, new.board, now))
        options = program_options(new)
        local, updater, renewal = parts.local, parts.updater, parts.renewal
        if local is not None and learning is not None and (schedule := learning.schedule) is not None:
            parts.loop.post(lambda now: local.settle(schedule, options, now))
        if updater is not None and renewal is not None:
            at = place(new, renewal.identity, installation.slots.configured)
            inference = Swap(parts.pipeline, at.forms)
            parts.loop.post(lambda now: updater.settle(new.releases, at, inference, now))

    def _run(self, new: Agent, models: _Models) -> None:
        """A release that took over meanwhile was perhaps loaded in the old way: once more then."""
        for _ in range(2):
            if self._parts.pipeline.renew(models.model, models.fallback, models.swaps):
                return
            with suppress(MarramError):
                models = self._models(new)
        log.warning("another model took over just now; model.threads and model.providers hold from the next")

    def _labels(self, link: MqttLink | None) -> None:
        old, self._parts.labels = self._parts.labels, link
        if old is not None:
            old.stop()
        if link is not None:
            link.start()


def _close(outputs: list[Output]) -> None:
    for output in outputs:
        try:
            output.close()
        except Exception as error:
            log.error("an output could not be closed: %s", error)
