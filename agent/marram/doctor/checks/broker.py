"""Can every broker of the configuration be reached, and used as it is meant?"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from marram.doctor.finding import Finding, note
from marram.doctor.machine import Machine
from marram.doctor.probe import Message, Target, probe
from marram.errors import MarramError

if TYPE_CHECKING:
    from marram.config.schema import Agent, Cloud
    from marram.outputs.mqtt import MqttConfig as MqttOutput
    from marram.sensors.mqtt import MqttConfig as MqttSensor


def check(machine: Machine) -> Iterator[Finding]:
    config = machine.config
    if config is None:
        return
    if config.cloud is not None:
        yield from probe(_cloud(config.cloud, machine), machine.now)
    for target in (*_sensors(config), *_outputs(config, machine), *_labels(config)):
        yield from probe(target, machine.now)
    if not machine.publish and any(_is_output(output) for output in config.outputs):
        yield note(
            "outputs",
            "whether their topics may be written was not tried: it takes a message that others see",
            "`marram doctor --publish` sends an empty one",
        )


def _cloud(cloud: Cloud, machine: Machine) -> Target:
    from marram.link.identity import load
    from marram.wire.topics import Topics

    try:
        identity = load(cloud.identity, key=cloud.key)
    except MarramError:
        # The check of the identity says what is wrong with it; the way to the broker can be tried.
        return Target(
            "cloud",
            cloud.broker,
            f"marram-doctor-{secrets.token_hex(4)}",
            partial(_authority, cloud.identity),
        )
    subject = identity.subject
    topics = Topics(subject.fleet, subject.region)
    return Target(
        part="cloud",
        url=cloud.broker,
        client_id=f"{subject.region}-{subject.name}",
        tls=identity.tls,
        subscribe=(topics.round, topics.down(subject.name, "#")),
        # True at this moment, and what the broker itself says when the agent is gone.
        publish=(Message(topics.state(subject.name), b'{"online":false}', retain=True),),
        logged_in=bool(((machine.status or {}).get("link") or {}).get("connected")),
    )


def _authority(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.crt"))


def _sensors(config: Agent) -> Iterator[Target]:
    for sensor in config.sensors:
        if sensor.__struct_config__.tag != "mqtt":
            continue
        one: MqttSensor = sensor  # type: ignore[assignment]
        yield Target(
            part=f"sensor {one.name}",
            url=one.broker,
            client_id=f"marram-doctor-{secrets.token_hex(4)}",
            tls=partial(_files, one),
            username=one.username,
            password=_password(one.password_file),
            subscribe=(one.topic,),
            listen=True,
        )


def _files(sensor: MqttSensor) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(sensor.ca) if sensor.ca else None)
    if sensor.certificate is not None:
        context.load_cert_chain(sensor.certificate, sensor.key)
    return context


def _password(path: Path | None) -> str | None:
    try:
        return path.read_text().splitlines()[0] if path is not None else None
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def _outputs(config: Agent, machine: Machine) -> Iterator[Target]:
    for index, output in enumerate(config.outputs):
        if not _is_output(output):
            continue
        one: MqttOutput = output  # type: ignore[assignment]
        topic = one.topic.replace("{device}", config.device.name).replace("{model}", "model")
        yield Target(
            part=f"output {index}",
            url=one.broker,
            client_id=f"marram-doctor-{secrets.token_hex(4)}",
            publish=(Message(topic),) if machine.publish else (),
        )


def _is_output(output: object) -> bool:
    from marram.outputs.mqtt import MqttConfig

    return isinstance(output, MqttConfig)


def _labels(config: Agent) -> Iterator[Target]:
    if config.labels.mqtt is not None:
        labels = config.labels.mqtt
        client = f"marram-doctor-{secrets.token_hex(4)}"
        yield Target("labels", labels.broker, client, subscribe=(labels.topic,))
