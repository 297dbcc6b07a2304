"""The connection to an MQTT 5 broker: connects for ever, tells what happened, forgets nothing silently.

paho does the protocol; this module adds what it lacks: backoff with jitter from the very first attempt,
publishes that are refused (not queued in memory) while the link is down, and messages acknowledged to the
broker only when the receiver has them on disk.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from marram.errors import LinkError

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_LAST = 1.0, 120.0
_PACKET_HEADROOM = 512


@dataclass(frozen=True, slots=True)
class Up:
    """Connected. max_payload: the largest payload in bytes that the broker takes."""

    max_payload: int


@dataclass(frozen=True, slots=True)
class Down:
    """Not connected; a new attempt is made by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message came. ``done()`` must be called once it is dealt with (where ``receive_maximum`` is set)."""

    topic: str
    payload: bytes
    done: Callable[[], None]


LinkEvent = Up | Down | Message


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is: ``mqtt://[user:password@]host[:1883]`` or ``mqtts://host[:8883]``."""

    host: str
    port: int
    tls: bool
    user: str | None = None
    password: str | None = None

    @staticmethod
    def parse(url: str) -> Broker:
        """Raises LinkError when the URL is not one of a broker."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise LinkError(f"broker {url!r}: {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise LinkError(f"broker {url!r}: should be mqtt://host:port or mqtts://host:port")
        tls = parts.scheme == "mqtts"
        return Broker(parts.hostname, port or (8883 if tls else 1883), tls, parts.username, parts.password)


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect.

    will: topic and payload that the broker publishes (retained) when this client dies. receive_maximum:
    messages that the broker may send before the first of them is ``done``; None takes them as they come.
    """

    client_id: str
    keepalive: float = 60.0
    will: tuple[str, bytes] | None = None
    receive_maximum: int | None = None
    tls: ssl.SSLContext | None = None


class MqttLink:
    """One connection. ``listener`` is called from the link's own thread and must not block for long."""

    def __init__(self, broker: Broker, options: Options, listener: Callable[[LinkEvent], None]) -> None:
        self._broker, self._options, self._listener = broker, options, listener
        self._stop = threading.Event()
        self._gone = threading.Event()
        self._accepted = False
        self._last: paho.MQTTMessageInfo | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self.bytes_out = 0
        self.bytes_in = 0
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=options.receive_maximum is not None,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.max_inflight_messages_set(100)
        if broker.user:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            client.tls_set_context(options.tls or ssl.create_default_context())
        if options.will:
            client.will_set(options.will[0], options.will[1], qos=1, retain=True)
        self._client = client

    def start(self) -> None:
        """Begin to connect; returns at once, whether there is a network or not."""
        self._thread.start()

    def stop(self) -> None:
        """Disconnect cleanly (the will is not sent) and wait for the thread."""
        self._stop.set()
        self._client.disconnect()
        self._gone.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected())

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Send with QoS 1. False when the link is down: the caller still holds the message."""
        if not self._client.is_connected():
            return False
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self._last = info
        self.bytes_out += len(topic) + len(payload)
        return bool(info.rc == paho.MQTT_ERR_SUCCESS)

    def drain(self, timeout: float) -> bool:
        """Wait until the broker has acknowledged all that was published; False after ``timeout`` seconds."""
        if self._last is None:
            return True
        # A broker acknowledges in the order in which it received (MQTT 5, section 4.6).
        self._last.wait_for_publish(timeout)
        return bool(self._last.is_published())

    def subscribe(self, topics: tuple[str, ...]) -> None:
        """Subscribe with QoS 1; retained messages come (again) for each. Nothing while the link is down."""
        options = SubscribeOptions(qos=1)
        for start in range(0, len(topics), 64):
            if self._client.is_connected():
                self._client.subscribe([(topic, options) for topic in topics[start : start + 64]])

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        for start in range(0, len(topics), 64):
            if self._client.is_connected():
                self._client.unsubscribe(list(topics[start : start + 64]))

    def _run(self) -> None:
        delay = BACKOFF_FIRST
        while not self._stop.is_set():
            properties = Properties(PacketTypes.CONNECT)
            if self._options.receive_maximum is not None:
                properties.ReceiveMaximum = self._options.receive_maximum
            try:
                self._client.connect(
                    self._broker.host,
                    self._broker.port,
                    keepalive=int(self._options.keepalive),
                    clean_start=True,
                    properties=properties,
                )
                # loop_start, not loop_forever: only with its own thread does paho let others publish.
                self._gone.clear()
                self._client.loop_start()
                self._gone.wait()
                self._client.loop_stop()
                if self._accepted:
                    delay = BACKOFF_FIRST
            except (OSError, ValueError) as error:
                self._listener(Down(f"{self._broker.host}:{self._broker.port}: {error}"))
            if not self._stop.is_set():
                # Full jitter: a fleet that lost its broker does not come back in one wave.
                self._stop.wait(random.uniform(0.1, delay))
                delay = min(delay * 2, BACKOFF_LAST)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: Any,
        code: Any,
        properties: Any,
    ) -> None:
        self._accepted = not code.is_failure
        if code.is_failure:
            self._listener(Down(f"the broker refused the connection: {code}"))
            client.disconnect()
            return
        limit = getattr(properties, "MaximumPacketSize", None) or (256 << 20)
        self._listener(Up(limit - _PACKET_HEADROOM))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: Any,
        code: Any,
        properties: Any,
    ) -> None:
        self._listener(Down(str(code)))
        self._gone.set()

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self.bytes_in += len(message.topic) + len(message.payload)
        mid, qos = message.mid, message.qos

        def done() -> None:
            if self._options.receive_maximum is not None:
                client.ack(mid, qos)

        try:
            self._listener(Message(message.topic, bytes(message.payload), done))
        except Exception:
            log.exception("a message on %s could not be taken in", message.topic)
