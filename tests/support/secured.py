"""A broker with the files that ``marram-cloud broker-config`` writes, and single clients of it."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from tests.support.mosquitto import Mosquitto

PATIENCE = 20.0


def broker_of(fleet: FleetFolder, folder: Path, port: int) -> Mosquitto:
    """The fleet's broker as it is configured, but for the address: tests listen on the loopback only."""
    files = fleet.write_broker(("localhost",), fleet.path / "broker", port)
    written = (files / "marram.conf").read_text().splitlines()
    assert f"listener {port}" in written
    lines = tuple(line for line in written if not line.startswith(("#", "listener ")))
    return Mosquitto(folder, listener=lines, port=port, scheme="mqtts", host_name="localhost")


def write_identity(
    folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """Files with a certificate and its key."""
    folder.mkdir(exist_ok=True)
    (folder / "device.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "device.key").write_bytes(authority.private_pem(key))
    return folder / "device.crt", folder / "device.key"


@dataclass
class Client:
    """A client with the identity of a folder. accepted: whether the broker let it in. lost: connections.

    authority: the fleet's ca.crt. heard: topics and payloads of all messages.
    """

    port: int
    authority: Path
    identity: Path
    name: str = "anything"
    heard: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=paho.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.identity / "device.crt", self.identity / "device.key")
        self._client.tls_set_context(context)
        self._answered = threading.Event()
        self.accepted, self.lost = False, 0
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_message = lambda _, __, one: self.heard.append((one.topic, one.payload))

    def _connected(
        self, client: object, userdata: object, flags: object, code: paho.ReasonCode, _: object
    ) -> None:
        self.accepted = not code.is_failure
        self._answered.set()

    def _disconnected(self, *_: object) -> None:
        self.lost += 1
        self._answered.set()

    def __enter__(self) -> Client:
        try:
            self._client.connect("localhost", self.port)
        except OSError:
            return self
        self._client.loop_start()
        assert self._answered.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic: str) -> None:
        """Mosquitto grants any filter and gives nothing that may not be read."""
        done = threading.Event()
        self._client.on_subscribe = lambda *_: done.set()
        self._client.subscribe(topic, qos=1)
        assert done.wait(PATIENCE)

    def may_write(self, topic: str, payload: bytes = b"x", retain: bool = False) -> bool:
        """Whether the broker takes a message there, by the reason in its acknowledgement."""
        done, codes = threading.Event(), []

        def published(
            client: object, userdata: object, mid: object, code: paho.ReasonCode, _: object
        ) -> None:
            codes.append(code)
            done.set()

        self._client.on_publish = published
        self._client.publish(topic, payload, qos=1, retain=retain)
        assert done.wait(PATIENCE)
        return not codes[0].is_failure
