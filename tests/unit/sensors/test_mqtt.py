"""Readings from a real Mosquitto on loopback."""

import json
import socket
import threading

import cbor2
import pytest
from marram.errors import SensorError
from marram.sensors import mqtt
from marram.sensors.mqtt import MqttConfig
from marram.sensors.sensor import SensorContext

from tests.support.mosquitto import Client, Mosquitto
from tests.support.reading import Reading

CODECS = {"json": lambda value: json.dumps(value).encode(), "cbor": cbor2.dumps}


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture
def topic(request):
    return f"plant/{abs(hash(request.node.nodeid))}"


def sensor_on(url, topic, **keys):
    config = MqttConfig(name="plant", broker=url, topic=topic, **{"channels": ("a", "b"), "qos": 1, **keys})
    return mqtt.open(config, SensorContext())


def subscribed(reading, client, topic, probe):
    """Wait until the subscription is there: a retained message comes through it."""
    client.publish(f"{topic}/first", probe, retain=True)
    reading.wait_for(1)


@pytest.mark.parametrize("format", ["json", "cbor"])
def test_readings_of_any_topic_below_are_mapped_and_garbage_is_counted(broker, topic, format):
    encode = CODECS[format]
    sensor = sensor_on(
        broker.url, f"{topic}/#", format=format, channels={"x": "imu.0", "y": "imu.1"}, time="t"
    )
    with Client(broker) as client, Reading(sensor) as reading:
        subscribed(reading, client, topic, encode({"imu": [1, 2], "t": 10}))
        client.publish(f"{topic}/imu", encode({"imu": [3, 4], "t": 11}))
        for garbage in (
            b"",
            b"\xff\xff",
            encode("text"),
            encode({"imu": ["x"], "t": 12}),
            b"[" * 5000,
            encode({"imu": [1, 2]}),
        ):
            client.publish(f"{topic}/imu", garbage)
        client.publish(f"{topic}/other", encode([{"imu": [5, 6], "t": 13}, {"imu": [7, None], "t": 14}]))
        samples = reading.wait_for(4)
    assert samples.time.tolist() == [10, 11, 13, 14]
    assert samples.values[0].tolist() == [1, 3, 5, 7]
    assert samples.values[1, :3].tolist() == [2, 4, 6]
    assert sensor.counters["malformed"] == 6
    assert sensor.counters["connected"] == 1
    assert sensor.first_malformed


def test_a_whole_number_of_400_digits_is_counted_and_does_not_end_the_sensor(broker, topic):
    sensor = sensor_on(broker.url, f"{topic}/#", time="t")
    with Client(broker) as client, Reading(sensor) as reading:
        subscribed(reading, client, topic, b'{"a": 1, "t": 1}')
        client.publish(topic, b'{"a": 1, "t": 1' + b"0" * 400 + b"}")
        client.publish(topic, b'{"a": 2, "t": 2}')
        assert reading.wait_for(2).values[0].tolist() == [1, 2]
    assert sensor.counters["malformed"] == 1


def test_a_payload_of_more_than_a_mebibyte_is_dropped_and_counted(broker, topic):
    sensor = sensor_on(broker.url, f"{topic}/#")
    with Client(broker) as client, Reading(sensor) as reading:
        subscribed(reading, client, topic, b'{"a": 1}')
        client.publish(topic, b" " * ((1 << 20) + 1))
        client.publish(topic, b'{"a": 2}')
        reading.wait_for(2)
    assert sensor.counters["dropped"] == 1


def test_a_full_queue_drops_the_oldest_and_counts_them(broker, topic):
    sensor = sensor_on(broker.url, f"{topic}/#", queue=2)
    stop = threading.Event()
    with Client(broker) as client:
        client.publish(f"{topic}/first", b'{"a": 0}', retain=True)
        blocks = sensor.read(stop)
        assert next(blocks).values[0].tolist() == [0]
        for number in range(1, 6):
            client.publish(topic, json.dumps({"a": number}))
        while sensor.counters["dropped"] < 3:
            threading.Event().wait(0.01)
        assert next(blocks).values[0].tolist() == [4, 5]
        stop.set()
        assert list(blocks) == []


def test_it_waits_for_a_broker_that_comes_later_and_comes_back_after_a_restart(tmp_path):
    broker = Mosquitto(tmp_path, persistence=True)
    sensor = sensor_on(broker.url, "plant")
    with Reading(sensor) as reading:
        broker.start()
        try:
            with Client(broker) as client:
                client.publish("plant", b'{"a": 1}', retain=True)
                reading.wait_for(1)
            broker.restart()
            reading.wait_for(2)
        finally:
            broker.stop()
    assert sensor.counters["connected"] == 2


def test_a_broker_that_wants_a_password_is_told(tmp_path):
    with Mosquitto(tmp_path, listener=("allow_anonymous false",)) as closed:
        sensor = sensor_on(closed.url, "plant")
        with Reading(sensor) as reading:
            reading.wait_until(lambda: sensor.counters["refused"] > 0)
    assert sensor.last_refusal == "Not authorized"


class OldBroker:
    """In front of a real broker: knows MQTT 3.1.1 only, and tells it as old brokers do."""

    def __init__(self, real, refusal):
        self.real, self.refusal = real, refusal
        self.levels = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            first = connection.recv(4096)
            level = first[first.index(b"MQTT") + 4] if b"MQTT" in first else 0
            self.levels.append(level)
            if level != 4:
                connection.sendall(self.refusal)
                connection.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.real.port))
            upstream.sendall(first)
            for source, sink in ((connection, upstream), (upstream, connection)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(4096):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.mark.parametrize(
    "refusal", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""], ids=["code 1", "code 132", "silent"]
)
def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(broker, topic, refusal):
    old = OldBroker(broker, refusal)
    sensor = sensor_on(f"mqtt://127.0.0.1:{old.port}", f"{topic}/#")
    with old.listener, Client(broker) as client, Reading(sensor) as reading:
        subscribed(reading, client, topic, b'{"a": 1}')
        assert old.levels[-1] == 4
        assert old.levels[0] == 5


def test_files_that_cannot_be_used_are_refused_before_anything_starts(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(SensorError, match="sensor plant: no password in"):
        sensor_on("mqtt://localhost", "t", username="u", password_file=empty)
    with pytest.raises(SensorError, match="sensor plant: unusable TLS files"):
        sensor_on("mqtts://localhost", "t", ca=empty)
