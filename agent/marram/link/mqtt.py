"""The connection to an MQTT 5 broker: connects for ever, tells what happened, forgets nothing silently.

paho does the protocol; this module adds what it lacks: backoff with jitter from the very first attempt,
publishes that are refused (not queued in memory without bound) while the link is down or too slow, the word
which publishes a lost connection took with it, and messages acknowledged to the broker only when the receiver
has them on disk.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from marram.link.broker import Broker

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_LAST = 1.0, 120.0
LEAST_PACKET = 4096
_PACKET_HEADROOM = 512
_LARGEST_PACKET = 256 << 20
# Within what brokers allow by default; paho cannot change it on a connection.
_IN_FLIGHT = 20
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class Up:
    """Connected. max_payload: the largest payload in bytes that the broker takes."""

    max_payload: int


@dataclass(frozen=True, slots=True)
class Publication:
    """A message on its way to the broker."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Down:
    """Not connected; a new attempt is made by itself.

    unacknowledged: what was published and is now uncertain, oldest first; it is not sent again by itself.
    """

    reason: str
    unacknowledged: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message came. ``done()`` must be called once it is dealt with (where ``receive_maximum`` is set)."""

    topic: str
    payload: bytes
    done: Callable[[], None]


LinkEvent = Up | Down | Message


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect.

    will: topic and payload that the broker publishes (retained) when this client dies. receive_maximum:
    messages that the broker may send before the first of them is ``done``; None takes them as they come.
    waiting: bytes that may be published and not acknowledged yet; more is refused, so that a slow link costs
    no memory.
    """

    client_id: str
    keepalive: float = 60.0
    will: tuple[str, bytes] | None = None
    receive_maximum: int | None = None
    tls: ssl.SSLContext | None = None
    waiting: int = 128 << 20


def full_jitter(longest: float) -> float:
    """A pause before the next attempt, s: a fleet that lost its broker does not come back in one wave."""
    return random.uniform(min(0.1, longest), longest)


@dataclass
class _Unacknowledged:
    """What the broker has not acknowledged on one connection. paho calls ``acknowledged`` from its thread, at
    times before ``publish`` has told the caller which message id it took."""

    limit: int
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _waiting: dict[int, Publication] = field(default_factory=dict)
    _early: set[int] = field(default_factory=set)
    _bytes: int = 0
    _open: bool = False

    def open(self) -> None:
        self._open = True

    def room(self, size: int) -> bool:
        """Whether so many bytes more may wait; a single message always may."""
        with self._lock:
            return self._open and (not self._waiting or self._bytes + size <= self.limit)

    def add(self, mid: int, publication: Publication) -> bool:
        """False when the connection was lost meanwhile: nobody will speak of this publication any more."""
        with self._lock:
            if mid in self._early:
                self._early.discard(mid)
                return True
            if not self._open:
                return False
            self._waiting[mid] = publication
            self._bytes += len(publication.payload)
            return True

    def acknowledged(self, mid: int) -> Publication | None:
        with self._lock:
            publication = self._waiting.pop(mid, None)
            if publication is None:
                self._early.add(mid)
            else:
                self._bytes -= len(publication.payload)
            self._lock.notify_all()
            return publication

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def close(self) -> tuple[Publication, ...]:
        """The connection is lost; what went with it, oldest first."""
        with self._lock:
            self._open = False
            lost = tuple(self._waiting.values())
            self._waiting.clear()
            self._bytes = 0
            self._lock.notify_all()
            return lost

    def drained(self, timeout: float) -> bool:
        """Wait until nothing waits; False when that did not come or the connection was lost."""
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting, timeout)
            return self._open and not self._waiting


class MqttLink:
    """One connection. ``listener`` is called from the link's own thread and must not block for long.

    max_payload: bytes of the largest payload that the broker takes, as far as is known.
    jitter: gives the pause before the next attempt, at most the seconds that it is given.
    """

    def __init__(
        self,
        broker: Broker,
        options: Options,
        listener: Callable[[LinkEvent], None],
        jitter: Callable[[float], float] = full_jitter,
    ) -> None:
        self._broker, self._options, self._listener, self._jitter = broker, options, listener, jitter
        self._tls = (options.tls or ssl.create_default_context()) if broker.tls else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._accepted = False
        self._reason = ""
        self._in_flight = _IN_FLIGHT
        self.max_payload = _LARGEST_PACKET
        self._client = self._new_client()
        self._unacknowledged = _Unacknowledged(options.waiting)
        self.bytes_out = 0
        self.bytes_in = 0

    def start(self) -> None:
        """Begin to connect; returns at once, whether there is a network or not."""
        self._thread.start()

    def stop(self) -> None:
        """Disconnect and wait for the thread; the broker publishes the will, for this client is gone."""
        self._stop.set()
        self._say_goodbye(self._client)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def reconnect(self, tls: ssl.SSLContext) -> None:
        """Connect anew, with another TLS identity; the listener hears ``Down`` and ``Up``."""
        if self._tls is not None:
            self._tls = tls
        self._reason = "connecting anew with another certificate"
        self._client.disconnect()

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected())

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Send with QoS 1. False when the link is down or too slow: the caller still holds the message.

        After True it either reaches the broker or is named by the next ``Down``.
        """
        client, unacknowledged = self._client, self._unacknowledged
        if not client.is_connected() or not unacknowledged.room(len(payload)):
            return False
        if len(payload) > self.max_payload:
            log.error(
                "%d bytes for %s are not sent: the broker takes at most %d; raise its largest packet size",
                len(payload), topic, self.max_payload,
            )  # fmt: skip
            return False
        info = client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        self.bytes_out += len(topic) + len(payload)
        return unacknowledged.add(info.mid, Publication(topic, payload, retain))

    @property
    def waiting(self) -> int:
        """Bytes that were published and are not acknowledged yet."""
        return self._unacknowledged.size

    def drain(self, timeout: float) -> bool:
        """Wait until the broker has acknowledged all that was published; False after ``timeout`` seconds."""
        return self._unacknowledged.drained(timeout)

    def watch(self, topics: tuple[str, ...]) -> None:
        """Subscribe to what others publish from now on on topics that this client writes itself."""
        only_news = SubscribeOptions.RETAIN_DO_NOT_SEND
        self._subscribe(topics, SubscribeOptions(qos=1, noLocal=True, retainHandling=only_news))

    def subscribe(self, topics: tuple[str, ...]) -> None:
        """Subscribe with QoS 1; retained messages come (again) for each. Nothing while the link is down."""
        self._subscribe(topics, SubscribeOptions(qos=1))

    def _subscribe(self, topics: tuple[str, ...], options: SubscribeOptions) -> None:
        client = self._client
        for start in range(0, len(topics), 64):
            if client.is_connected():
                client.subscribe([(topic, options) for topic in topics[start : start + 64]])

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        client = self._client
        for start in range(0, len(topics), 64):
            if client.is_connected():
                client.unsubscribe(list(topics[start : start + 64]))

    def _run(self) -> None:
        longest = BACKOFF_FIRST
        while not self._stop.is_set():
            began = time.monotonic()
            reason = self._live()
            lost = self._unacknowledged.close()
            self._listener(Down(f"{self._broker.host}:{self._broker.port}: {reason}", lost))
            # A broker that takes the connection and drops it at once is no reason to hurry.
            if self._accepted and time.monotonic() - began > longest:
                longest = BACKOFF_FIRST
            self._stop.wait(self._jitter(longest))
            longest = min(longest * 2, BACKOFF_LAST)

    def _live(self) -> str:
        """One connection from beginning to end; why it ended."""
        self._accepted = False
        self._reason = ""
        self._unacknowledged = _Unacknowledged(self._options.waiting)
        # A new client for each connection: what paho kept of the last one would be sent again behind the
        # back of the listener, after newer messages.
        client = self._client = self._new_client()
        properties = Properties(PacketTypes.CONNECT)
        if self._options.receive_maximum is not None:
            properties.ReceiveMaximum = self._options.receive_maximum
        keepalive = int(self._options.keepalive)
        try:
            client.connect(
                self._broker.host,
                self._broker.port,
                keepalive=keepalive,
                clean_start=True,
                properties=properties,
            )
            if self._stop.is_set():
                self._say_goodbye(client)
            while client.loop(timeout=min(_LOOK, keepalive / 4)) == paho.MQTT_ERR_SUCCESS:
                pass
        except (OSError, ValueError) as error:
            return str(error)
        except Exception as error:
            # paho trips over some packets that no honest broker sends.
            log.exception("the MQTT client failed")
            return f"the MQTT client failed: {error}"
        return self._reason or "the connection was closed; the broker's log may say why"

    def _new_client(self) -> paho.Client:
        options = self._options
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
        client.on_publish = self._on_publish
        # With this callback other threads leave the writing to the link's own.
        client.on_socket_register_write = lambda *_: None
        client.max_inflight_messages_set(self._in_flight)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if options.will:
            client.will_set(options.will[0], options.will[1], qos=1, retain=True)
        return client

    def _say_goodbye(self, client: paho.Client) -> None:
        name = "Disconnect with will message" if self._options.will else "Normal disconnection"
        client.disconnect(ReasonCode(PacketTypes.DISCONNECT, name))

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: Any,
        code: Any,
        properties: Any,
    ) -> None:
        if code.is_failure:
            self._reason = f"the broker refused the connection: {code}"
            client.disconnect()
            return
        limit = getattr(properties, "MaximumPacketSize", None) or _LARGEST_PACKET
        if limit < LEAST_PACKET:
            self._reason = f"the broker takes packets of at most {limit} bytes; {LEAST_PACKET} are needed"
            client.disconnect()
            return
        self._in_flight = min(_IN_FLIGHT, getattr(properties, "ReceiveMaximum", _IN_FLIGHT))
        self._accepted = True
        self.max_payload = limit - _PACKET_HEADROOM
        self._unacknowledged.open()
        self._listener(Up(self.max_payload))

    def _on_disconnect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: Any,
        code: Any,
        properties: Any,
    ) -> None:
        said = str(code)
        self._reason = self._reason or ("" if said == "Unspecified error" else said)

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        publication = self._unacknowledged.acknowledged(mid)
        if code.is_failure and publication is not None:
            log.error("the broker refused a message on %s: %s", publication.topic, code)

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
