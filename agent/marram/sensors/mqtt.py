"""Readings from any MQTT topic, JSON or CBOR, of any broker.

The client tries MQTT 5 first, then 3.1.1 for a broker that does not know it, and reconnects for ever.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec

from marram.config.values import BrokerUrl, ExistingFile, TopicFilter
from marram.errors import SensorError
from marram.link.broker import Broker
from marram.sensors.fields import FieldMapper, FieldsConfig
from marram.sensors.sensor import SensorContext
from marram.stream.blocks import Samples

_POLL = 0.2
_BATCH = 256
_LONGEST_PAYLOAD = 1 << 20
# A broker without MQTT 5 may close the connection without a word: so often in a row, then try 3.1.1.
_SILENT_REFUSALS = 2
_UNSUPPORTED_PROTOCOL = 132
_REFUSED_PROTOCOL_V3 = 1


class MqttConfig(FieldsConfig, frozen=True, kw_only=True, tag="mqtt"):
    """Messages of an MQTT topic.

    broker: address of the broker.
    topic: topic filter, wildcards allowed.
    format: how the payload is written.
    qos: quality of service of the subscription.
    queue: messages that may wait; beyond it the oldest are dropped and counted.
    username: user name at the broker.
    password_file: file whose first line is the password.
    ca: certificates that the broker's certificate must go back to, by default the system's.
    certificate: the client's own certificate.
    key: the key of that certificate.
    """

    broker: BrokerUrl
    topic: TopicFilter
    format: Literal["json", "cbor"] = "json"
    qos: Literal[0, 1, 2] = 0
    queue: Annotated[int, msgspec.Meta(ge=1)] = 1000
    username: str | None = None
    password_file: ExistingFile | None = None
    ca: ExistingFile | None = None
    certificate: ExistingFile | None = None
    key: ExistingFile | None = None


class MqttSensor:
    """Reads one subscription. ``make_client`` gives a paho client for a protocol version (5 or 4).

    counters: messages, malformed, backwards; dropped (the queue was full), connected, refused.
    """

    live = True

    def __init__(self, config: MqttConfig, context: SensorContext, make_client: Callable[[int], Any]) -> None:
        self.name = config.name
        self._config = config
        self._mapper = FieldMapper(config, context.max_gap)
        self.channels = self._mapper.channels
        self.counters = self._mapper.counters
        self.counters |= {"dropped": 0, "connected": 0, "refused": 0}
        self.last_refusal = ""
        self._clock = context.clock
        self._make_client = make_client
        self._decode = _decoder(config)
        self._queue: queue.Queue[tuple[float, bytes]] = queue.Queue(config.queue)
        self._protocol = 5
        self._ever_connected = False
        self._silent = 0
        self._downgrade = threading.Event()

    @property
    def first_malformed(self) -> str:
        """Why the first malformed message was refused, or ""."""
        return self._mapper.first_malformed

    def read(self, stop: threading.Event) -> Iterator[Samples]:
        client = self._start()
        try:
            while not stop.is_set():
                if self._downgrade.is_set():
                    self._downgrade.clear()
                    self._protocol = 4
                    _end(client)
                    client = self._start()
                samples = self._mapper.samples(self._waiting())
                if samples is not None:
                    yield samples
        finally:
            _end(client)

    def _start(self) -> Any:  # noqa: ANN401  (paho is imported only where it is used)
        client = self._make_client(self._protocol)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 60)
        broker = Broker.parse(self._config.broker)
        client.connect_async(broker.host, broker.port)
        client.loop_start()
        return client

    def _waiting(self) -> Iterator[tuple[float, object]]:
        """(time of arrival, decoded message) of what has come; waits a little for the first."""
        for index in range(_BATCH):
            try:
                arrival, payload = self._queue.get(timeout=_POLL) if not index else self._queue.get_nowait()
            except queue.Empty:
                return
            try:
                yield arrival, self._decode(payload)
            except Exception as error:  # a decoder of hostile input: any error means malformed
                self._mapper.malformed(f"not {self._config.format.upper()}: {type(error).__name__}: {error}")

    # Called by paho's thread

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, *_: object) -> None:  # noqa: ANN401
        if reason.is_failure:
            self.counters["refused"] += 1
            self.last_refusal = str(reason)
            if self._protocol == 5 and reason.value in (_UNSUPPORTED_PROTOCOL, _REFUSED_PROTOCOL_V3):
                self._downgrade.set()
            return
        self._ever_connected = True
        self.counters["connected"] += 1
        client.subscribe(self._config.topic, qos=self._config.qos)

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: Any, *_: object) -> None:  # noqa: ANN401
        if any(reason.is_failure for reason in reasons):
            self.counters["refused"] += 1
            self.last_refusal = f"subscription to {self._config.topic}: {reasons[0]}"

    def _on_disconnect(self, *_: object) -> None:
        if self._ever_connected or self._protocol != 5:
            return
        self._silent += 1
        if self._silent >= _SILENT_REFUSALS:
            self._downgrade.set()

    def _on_message(self, client: object, userdata: object, message: Any) -> None:  # noqa: ANN401
        item = (self._clock(), message.payload)
        if len(message.payload) > _LONGEST_PAYLOAD:
            self.counters["dropped"] += 1
            return
        while True:
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                self._drop_oldest()
            else:
                return

    def _drop_oldest(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return
        self.counters["dropped"] += 1


def _end(client: Any) -> None:  # noqa: ANN401
    client.disconnect()
    client.loop_stop()


def _decoder(config: MqttConfig) -> Callable[[bytes], object]:
    if config.format == "json":
        return msgspec.json.decode
    import cbor2

    return cbor2.loads


def open(config: MqttConfig, context: SensorContext) -> MqttSensor:
    """Open a subscription; the broker need not be there yet. Raises SensorError for unusable files."""
    try:
        import paho.mqtt.client as paho
    except ImportError as error:
        raise SensorError(f"sensor {config.name}: paho-mqtt is not installed: {error}") from error
    try:
        password = config.password_file.read_text().splitlines()[0] if config.password_file else None
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise SensorError(f"sensor {config.name}: no password in {config.password_file}: {error}") from error

    def make_client(protocol: int) -> Any:  # noqa: ANN401
        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            protocol=paho.MQTTv5 if protocol == 5 else paho.MQTTv311,
        )
        if config.username is not None:
            client.username_pw_set(config.username, password)
        if Broker.parse(config.broker).tls:
            client.tls_set(_text(config.ca), _text(config.certificate), _text(config.key))
        return client

    try:
        make_client(5)
    except (OSError, ValueError) as error:
        raise SensorError(f"sensor {config.name}: unusable TLS files: {error}") from error
    return MqttSensor(config, context, make_client)


def _text(path: object) -> str | None:
    return None if path is None else str(path)
