"""Builds the daemon's parts from its configuration; what can be wrong with it is found here, before READY."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from marram import RELEASED
from marram.bundle.file import Bundle
from marram.bundle.manifest import Manifest
from marram.config.schema import Agent, Cloud, Learning
from marram.device.clock import Clock
from marram.device.resources import Resources, minute_of_day
from marram.device.watch import Watcher
from marram.enrolment.renewal import Renewal
from marram.errors import BundleError, ProgramError
from marram.health import obey, observed
from marram.inference.model import Model, own_name
from marram.inference.pipeline import Pipeline
from marram.inference.queue import WindowQueue
from marram.learning import journal as journals
from marram.learning.child import TrainerChild
from marram.learning.journal import Journal
from marram.learning.local import LocalLearning
from marram.learning.own import Own, OwnModels
from marram.learning.participant import Participant
from marram.learning.rounds import Rounds
from marram.learning.store import SampleStore, StoreSettings
from marram.learning.work import Workshop
from marram.link import identity as identities
from marram.link.broker import Broker
from marram.link.identity import Identity
from marram.link.mqtt import LinkEvent, Message, MqttLink, Options, Up
from marram.loop import Loop
from marram.outputs.output import OUTPUTS, OutputConfig, OutputContext
from marram.programs.program import ProgramOptions
from marram.releases.configured import open_configured
from marram.releases.forms import Choices, Forms, Trier
from marram.releases.hold import Hold
from marram.releases.installation import Installation
from marram.releases.swap import Swap
from marram.releases.updater import Place, Updater, deadlines
from marram.sensors.sensor import SENSORS, Sensor, SensorConfig, SensorContext
from marram.storage import open_database
from marram.stream.labels import parse_label
from marram.stream.stream import Stream
from marram.wire.signed import AggregatorTrust, Author
from marram.wire.topics import Topics

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """What a daemon is made of. Without a cloud there is no link, rounds, updater and renewal.

    manifest: of the bundle that inference began with.
    """

    manifest: Manifest
    outputs_know: OutputContext
    sensors: dict[str, Sensor]
    pipeline: Pipeline
    loop: Loop
    installation: Installation
    hold: Hold
    resources: Resources
    workshop: Workshop | None = None
    local: LocalLearning | None = None
    link: MqttLink | None = None
    rounds: Rounds | None = None
    updater: Updater | None = None
    renewal: Renewal | None = None
    labels: MqttLink | None = None
    watcher: Watcher | None = None
    sensor_errors: dict[str, str] = field(default_factory=dict)


def assemble(config: Agent) -> Parts:
    """Open everything. Raises MarramError with the reason when something cannot be used."""
    source = config.model.bundle or config.model.file
    assert source is not None, "the schema sees to it"
    configured, damaged = open_configured(source, config.model.description, config.device.state / "releases")
    installation = Installation.open(config.device.state / "releases", configured, deadlines(config.releases))
    identity = identities.load(config.cloud.identity, key=config.cloud.key) if config.cloud else None
    clock = _clock(installation, identity)
    forms = make_forms(config, configured)
    bundle, path, model, broken = installation.start(forms.load, clock(), curable=identity is not None)
    loop = Loop(clock)
    sensors = open_sensors(config, config.sensors)
    context = OutputContext(identity.subject.name if identity else config.device.name, bundle.manifest.name)
    parts = Parts(
        manifest=bundle.manifest,
        outputs_know=context,
        sensors=sensors,
        pipeline=_pipeline(config, bundle, model, sensors, context),
        loop=loop,
        installation=installation,
        hold=Hold(config.device.state / "releases" / "hold"),
        resources=Resources(),
    )
    parts.pipeline.broken = broken
    parts.watcher = Watcher(
        settings=config.watch,
        board=config.board,
        state=config.device.state,
        observe=lambda: observed(parts, clock.behind, damaged),
        obey=lambda orders: obey(parts, orders),
    )
    loop.add(parts.watcher)
    if parts.pipeline.fallback is None:
        parts.pipeline.fallback = fallback(config, installation)
    if config.learning is not None:
        _add_learning(config, config.learning, bundle, path, parts)
    if config.cloud is not None and identity is not None:
        _add_cloud(config, config.cloud, identity, bundle, parts)
    if config.labels.mqtt is not None:
        parts.labels = label_link(config, parts.pipeline)
    return parts


def program_options(config: Agent) -> ProgramOptions:
    return ProgramOptions(config.model.threads, config.model.providers)


def make_forms(config: Agent, configured: Bundle) -> Forms:
    """How models are loaded, in which of their forms. configured: the YAML's bundle."""
    learning = config.learning or Learning()
    trier = Trier(
        configured, config.releases.memory, learning.trainer.nice, config.releases.preflight_timeout
    )
    choices = Choices(config.device.state / "releases" / "forms.json")
    return Forms(choices, program_options(config), config.model.runtime, trier)


def _passed(identity: Identity | None) -> float:
    """Unix seconds that are over: this version's release, and the start of the own certificate."""
    return max(RELEASED, identity.floor if identity else 0.0)


def _clock(installation: Installation, identity: Identity | None) -> Clock:
    """Never before what has surely passed, the newest signed metadata too."""
    return Clock(lambda: max(_passed(identity), installation.machine.state.floor))


def fallback(config: Agent, installation: Installation) -> Model | None:
    """A release that has not shown yet that it works runs with what ran before it at hand."""
    running = installation.machine.running
    if running is None or running.confirmed:
        return None
    try:
        before = installation.bundle(installation.machine.state.previous)
        return make_forms(config, installation.slots.configured).load(before)
    except (BundleError, ProgramError) as error:
        log.error("nothing to fall back on: %s", error)
        return None


def own_parameters(config: Agent, bundle: Bundle) -> OwnModels | None:
    """What this device learnt by itself, ready to run; None before it did."""
    int8 = config.learning is None or config.learning.int8.use != "never"
    return Own(config.device.state / "own", bundle).models(program_options(config), int8)


def _own_trouble(pipeline: Pipeline) -> str:
    """Why the device's own int8 does not run as it should: it failed, float32 runs in its place perhaps."""
    model = pipeline.model
    if model is None:
        return ""
    if model.name == own_name(model.manifest, "own, int8"):
        return pipeline.broken
    return pipeline.misbehaved if model.name == own_name(model.manifest) else ""


def open_sensors(config: Agent, wanted: Iterable[SensorConfig]) -> dict[str, Sensor]:
    """Those that are wanted, by name. Raises MarramError."""
    context = SensorContext(config.device.name, config.board, max_gap=config.stream.max_gap)
    return {sensor.name: SENSORS.open(sensor, context) for sensor in wanted}


def output_names(config: Agent) -> dict[str, OutputConfig]:
    """What the outputs are called."""
    return {
        output.name or f"{index}-{output.__struct_config__.tag}": output
        for index, output in enumerate(config.outputs)
    }


def make_stream(config: Agent, manifest: Manifest, sensors: dict[str, Sensor]) -> Stream:
    """Raises ConfigError where a channel has no source."""
    return Stream(
        manifest.channel_names,
        manifest.rate,
        manifest.length,
        manifest.stride,
        manifest.labels,
        {name: sensor.channels for name, sensor in sensors.items()},
        config.stream,
        replays=[name for name, sensor in sensors.items() if not sensor.live],
    )


def _pipeline(
    config: Agent, bundle: Bundle, model: Model | None, sensors: dict[str, Sensor], context: OutputContext
) -> Pipeline:
    manifest = bundle.manifest
    stream = make_stream(config, manifest, sensors)
    outputs = {name: OUTPUTS.open(output, context) for name, output in output_names(config).items()}
    queue = WindowQueue(config.model.queue)
    pipeline = Pipeline(stream, manifest.labels, queue, model, outputs, None, config.model.max_batch)
    if config.model.parameters == "own":
        own = own_parameters(config, bundle)
        pipeline.model, pipeline.fallback = (own.model, own.fallback) if own is not None else (None, None)
    return pipeline


def store_settings(learning: Learning) -> StoreSettings:
    """As the store takes them."""
    store = learning.store
    return StoreSettings(store.max_bytes, store.max_age, store.commit_every, learning.holdout)


def _add_learning(config: Agent, learning: Learning, bundle: Bundle, path: Path, parts: Parts) -> None:
    manifest, state = bundle.manifest, config.device.state
    windows = state / "windows.db"
    shape = (len(manifest.channels), manifest.length)
    parts.pipeline.store = SampleStore(windows, manifest.family, shape, store_settings(learning))
    parts.workshop = Workshop(
        config=learning,
        manifest=manifest,
        bundle=path,
        windows=windows,
        folder=state / "training",
        store=parts.pipeline.store,
        resources=parts.resources,
        child=TrainerChild(),
    )
    if learning.schedule is not None:
        parts.local = LocalLearning(
            schedule=learning.schedule,
            workshop=parts.workshop,
            own=Own(state / "own", bundle),
            options=program_options(config),
            loop=parts.loop,
            swap=parts.pipeline.swap,
            trouble=lambda: _own_trouble(parts.pipeline),
        )
        parts.loop.add(parts.local)


def _add_cloud(config: Agent, cloud: Cloud, identity: Identity, bundle: Bundle, parts: Parts) -> None:
    subject, loop = identity.subject, parts.loop
    topics = Topics(subject.fleet, subject.region)
    options = Options(
        client_id=f"{subject.region}-{subject.name}",
        keepalive=cloud.keepalive,
        will=(topics.state(subject.name), b'{"online":false}'),
        tls=identity.tls(),
    )
    link = MqttLink(
        Broker.parse(cloud.broker), options, lambda event: loop.post(lambda now: heard(event, now))
    )

    def announce() -> None:
        running = parts.installation.machine.running
        release = running.release.version if running else parts.installation.slots.configured.manifest.version
        state = {"online": True, "release": release, "learning": rounds is not None}
        link.publish(topics.state(subject.name), json.dumps(state).encode(), retain=True)

    def renewed(now: Identity) -> None:
        # Both at once: what is sealed by the new key goes out after the greeting of the new connection, in
        # which the device's report shows the new certificate.
        own = now.author()
        author.renew(own.signer, own.chain)
        updater.introduce(author, loop.clock())
        link.reconnect(now.tls())

    author = identity.author()
    updater = _updater(config, identity, author, link, announce, parts)
    rounds = _rounds(config, identity, author, bundle, link, parts)
    url = cloud.enrolment or identity.enrolment.url
    renewal = Renewal(identity, url, loop, renewed, loop.clock())

    def heard(event: LinkEvent, now: float) -> None:
        match event:
            case Up():
                announce()
                updater.connected(event.max_payload, now)
                if rounds is not None:
                    rounds.connected(event.max_payload, now)
            case Message():
                if not updater.arrived(event.topic, event.payload, now) and rounds is not None:
                    rounds.arrived(event.topic, event.payload, now)
            case _:
                log.info("the link is down: %s", event.reason)
                updater.disconnected()
                if rounds is not None:
                    rounds.disconnected(now)

    parts.link, parts.updater, parts.rounds, parts.renewal = link, updater, rounds, renewal
    loop.add(renewal)
    loop.add(updater)
    if rounds is not None:
        loop.add(rounds)


def place(config: Agent, identity: Identity, configured: Bundle) -> Place:
    """What this device is to its releases."""
    learning = config.learning
    return Place(
        device=identity.subject.name,
        tags=(*config.device.tags, f"region:{identity.subject.region}"),
        model=configured.manifest.name,
        root=identity.root,
        store=str(config.device.state / "windows.db") if learning is not None else "",
        forms=make_forms(config, configured),
        nice=(learning or Learning()).trainer.nice,
        description=config.model.description,
        authority=identity.folder / identities.AUTHORITY,
    )


def _updater(
    config: Agent,
    identity: Identity,
    author: Author,
    link: MqttLink,
    announce: Callable[[], None],
    parts: Parts,
) -> Updater:
    """Releases, and the word to the cloud of what runs here."""
    subject, pipeline = identity.subject, parts.pipeline
    updater = Updater(
        settings=config.releases,
        at=place(config, identity, parts.installation.slots.configured),
        installation=parts.installation,
        inference=Swap(pipeline, make_forms(config, parts.installation.slots.configured)),
        topics=Topics(subject.fleet, subject.region),
        author=author,
        link=link,
        loop=parts.loop,
        hold=parts.hold,
        minute=minute_of_day,
        clock=Clock(lambda: _passed(identity)),
        changed=announce,
    )
    pipeline.shadow = updater.trying.shadow
    return updater


def _rounds(
    config: Agent, identity: Identity, author: Author, bundle: Bundle, link: MqttLink, parts: Parts
) -> Rounds | None:
    """Taking part in rounds: only with a store to learn from, and a bundle that can be trained."""
    if parts.workshop is None or not bundle.manifest.trainable:
        return None
    subject, manifest = identity.subject, bundle.manifest
    database = open_database(config.device.state / "journal.db", journals.SCHEMA)
    # The fleet's version 0 is what the configured bundle holds, whatever release runs by now.
    journal = Journal(database, manifest.family, parts.installation.slots.configured.parameters())
    trust = AggregatorTrust(identity.authority, subject.fleet, subject.region)
    topics = Topics(subject.fleet, subject.region)

    def make() -> Participant:
        return Participant(topics, author, trust, manifest.family, journal.memory())

    return Rounds(make, journal, link, parts.workshop, parts.loop)


def label_link(config: Agent, pipeline: Pipeline) -> MqttLink:
    """Labels as MQTT messages, on whatever broker the plant has."""
    settings = config.labels.mqtt
    assert settings is not None

    def heard(event: LinkEvent) -> None:
        if isinstance(event, Up):
            link.subscribe((settings.topic,))
        elif isinstance(event, Message):
            try:
                message = parse_label(event.payload)
            except ValueError as error:
                log.warning("a label on %s was not understood: %s", event.topic, error)
                return
            if not pipeline.label(message.label, message.start, message.end):
                log.warning("label %r is not one of the model's", message.label)

    # A name of its own: of two clients with one name a broker lets only one stay.
    options = Options(client_id=f"marram-labels-{config.device.name}-{secrets.token_hex(4)}")
    link = MqttLink(Broker.parse(settings.broker), options, heard)
    return link
