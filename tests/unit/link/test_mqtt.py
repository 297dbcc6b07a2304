"""The link against a real broker, a network that fails, and servers that are no brokers."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.link.broker import Broker
from marram.link.mqtt import (
    BACKOFF_LAST,
    Down,
    LinkEvent,
    Message,
    MqttLink,
    Options,
    Publication,
    Up,
    full_jitter,
)

from tests.support.mosquitto import Client, Mosquitto, free_port
from tests.support.processes import eventually
from tests.support.proxy import Proxy

WAIT = 20.0


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: queue.Queue[LinkEvent] = queue.Queue()

    def next(self, kind: type) -> LinkEvent:
        """The next event of a kind; others before it are left out."""
        while True:
            event = self.events.get(timeout=WAIT)
            if isinstance(event, kind):
                return event


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Linked:
    """A started link, and what it hears; stopped at the end."""

    def __init__(self, url: str, **options: object) -> None:
        self.heard = Heard()
        self.pauses: list[float] = []
        settings = Options(**{"client_id": "link", **options})  # type: ignore[arg-type]
        self.link = MqttLink(Broker.parse(url), settings, self.heard.events.put, self._pause)

    def __enter__(self) -> Linked:
        self.link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def _pause(self, longest: float) -> float:
        self.pauses.append(longest)
        return 0.01

    def up(self) -> Up:
        event = self.heard.next(Up)
        assert isinstance(event, Up)
        return event

    def down(self) -> Down:
        event = self.heard.next(Down)
        assert isinstance(event, Down)
        return event


class Server:
    """Takes connections, reads what comes first, answers with ``answer``; then closes, or says no more."""

    def __init__(self, answer: bytes, close: bool = True) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer, self._close = answer, close
        self._held: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._held:
            connection.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
                connection.recv(65536)
                connection.sendall(self._answer)
            except OSError:
                return
            if self._close:
                connection.close()
            else:
                self._held.append(connection)


def test_it_tries_for_ever_with_pauses_that_grow_to_a_limit() -> None:
    with Linked(f"mqtt://127.0.0.1:{free_port()}") as linked:
        for _ in range(10):
            linked.down()
    assert linked.pauses[:9] == [1, 2, 4, 8, 16, 32, 64, BACKOFF_LAST, BACKOFF_LAST]


@given(st.floats(0.001, BACKOFF_LAST))
def test_a_pause_is_never_nothing_and_never_longer_than_asked(longest: float) -> None:
    assert min(0.1, longest) <= full_jitter(longest) <= longest


def test_the_pauses_of_a_fleet_differ() -> None:
    assert len({full_jitter(60.0) for _ in range(50)}) > 40


def test_a_broker_that_appears_later_is_found(tmp_path: Path) -> None:
    port = free_port()
    with Linked(f"mqtt://127.0.0.1:{port}") as linked:
        linked.down()
        assert not linked.link.connected
        with Mosquitto(tmp_path, port=port):
            linked.up()
            assert linked.link.connected


def test_a_publish_is_refused_while_the_link_is_down() -> None:
    with Linked(f"mqtt://127.0.0.1:{free_port()}") as linked:
        linked.down()
        assert not linked.link.publish("topic", b"payload")


def test_publishes_from_several_threads_all_arrive_once(broker: Mosquitto) -> None:
    with Client(broker, "many/#") as client, Linked(broker.url) as linked:
        linked.up()

        def work(number: int) -> None:
            for index in range(150):
                assert linked.link.publish(f"many/{number}", str(index).encode())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert linked.link.drain(WAIT)
        client.wait_for(lambda messages: len(messages) >= 600)
        for number in range(4):
            mine = [int(payload) for topic, payload, _ in client.messages if topic == f"many/{number}"]
            assert mine == list(range(150))


def test_what_was_acknowledged_is_not_named_when_the_link_is_lost(broker: Mosquitto) -> None:
    with Proxy(broker.port) as proxy, Linked(proxy.url) as linked:
        linked.up()
        assert linked.link.publish("known", b"1")
        assert linked.link.drain(WAIT)
        proxy.cut()
        assert linked.down().unacknowledged == ()


def test_what_a_lost_link_took_with_it_is_named_in_order_and_not_sent_again(broker: Mosquitto) -> None:
    with Client(broker, "lost/#") as client, Proxy(broker.port) as proxy, Linked(proxy.url) as linked:
        linked.up()
        proxy.stall()
        for index in range(50):
            assert linked.link.publish("lost/topic", str(index).encode(), retain=True)
        proxy.cut()
        lost = linked.down().unacknowledged
        assert lost == tuple(Publication("lost/topic", str(index).encode(), True) for index in range(50))
        proxy.flow()
        proxy.mend()
        linked.up()
        assert linked.link.publish("lost/new", b"new")
        client.wait_for(lambda messages: any(topic == "lost/new" for topic, _, _ in messages))
        assert [topic for topic, _, _ in client.messages] == ["lost/new"]


def test_a_half_dead_link_refuses_what_would_take_too_much_memory(broker: Mosquitto) -> None:
    with Proxy(broker.port) as proxy, Linked(proxy.url, waiting=10_000) as linked:
        linked.up()
        proxy.stall()
        answers = [linked.link.publish("slow", bytes(1000)) for _ in range(30)]
        assert answers == [True] * 10 + [False] * 20
        proxy.flow()
        assert linked.link.drain(WAIT)
        assert linked.link.publish("slow", bytes(1000))


def test_one_message_larger_than_the_memory_for_waiting_goes_out(broker: Mosquitto) -> None:
    with Linked(broker.url, waiting=10) as linked:
        linked.up()
        assert linked.link.publish("large", bytes(1000))
        assert linked.link.drain(WAIT)


def test_draining_fails_when_the_link_is_lost(broker: Mosquitto) -> None:
    with Proxy(broker.port) as proxy, Linked(proxy.url) as linked:
        linked.up()
        proxy.stall()
        assert linked.link.publish("lost", b"1")
        assert not linked.link.drain(0.1)
        proxy.cut()
        linked.down()
        assert not linked.link.drain(0.1)


def test_a_dead_network_is_noticed_by_the_missing_sign_of_life(broker: Mosquitto) -> None:
    with Proxy(broker.port) as proxy, Linked(proxy.url, keepalive=1) as linked:
        linked.up()
        proxy.stall()
        assert "eep" in linked.down().reason


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x00",
        b"\x20\x03\x00\x00",
        b"\x20\x02\x00\x00",
        b"\x20\x03\x00\x00\x80",
        b"\x20\x03\x00\xff\x00",
        b"\x20\x06\x00\x00\x03\x27\x00\x00",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x03\x00\x00\x00\x30\x02\x00\xff",
        b"\x20\x03\x00\x00\x00\x30\x05\x00\x02\xff\xff\x00",
        b"\x20\x03\x00\x00\x00\x32\x03\x00\x01a",
        b"\x20\x03\x00\x00\x00\x40\x01\x00",
        b"\x20\x03\x00\x00\x00\x40\x04\x00\x01\xee\x00",
        b"\x20\x03\x00\x00\x00\xe0\x01\xee",
        b"\x20\x03\x00\x00\x00\xf0\x00\x00",
        b"\x00" * 64,
        b"\xff" * 64,
    ],
    ids=bytes.hex,
)
def test_a_server_that_speaks_nonsense_is_left_and_tried_again(answer: bytes) -> None:
    with Server(answer) as server, Linked(server.url) as linked:
        for _ in range(3):
            assert linked.down().reason


def test_a_server_that_never_answers_is_left_and_tried_again() -> None:
    with Server(b"", close=False) as server, Linked(server.url, keepalive=1) as linked:
        linked.down()
        linked.down()


def test_a_broker_that_drops_every_connection_is_not_asked_without_a_pause() -> None:
    with Server(b"\x20\x03\x00\x00\x00") as server, Linked(server.url) as linked:
        for _ in range(4):
            linked.down()
    assert linked.pauses[:3] == [1, 2, 4]


def test_a_refusal_is_told_with_its_reason(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, listener=("allow_anonymous false",)) as strict, Linked(strict.url) as linked:
        assert "Not authorized" in linked.down().reason
        linked.down()


def test_a_clean_stop_publishes_the_will(broker: Mosquitto) -> None:
    with Client(broker, "will/clean") as client:
        with Linked(broker.url, will=("will/clean", b"gone")) as linked:
            linked.up()
        client.wait_for(lambda messages: ("will/clean", b"gone", False) in messages)


def test_a_lost_connection_publishes_the_will(broker: Mosquitto) -> None:
    will = ("will/lost", b"gone")
    with (
        Client(broker, "will/lost") as client,
        Proxy(broker.port) as proxy,
        Linked(proxy.url, will=will) as linked,
    ):
        linked.up()
        proxy.cut()
        client.wait_for(lambda messages: (*will, False) in messages)


def test_stopping_in_the_middle_of_connecting_takes_no_time() -> None:
    with Server(b"", close=False) as server:
        linked = Linked(server.url)
        with linked:
            eventually("a connection", lambda: server._held)
        assert not linked.link._thread.is_alive()


def test_a_message_too_large_for_the_broker_is_refused_and_the_link_stays(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path, lines=("max_packet_size 8192",)) as small,
        Client(small, "small") as client,
        Linked(small.url) as linked,
    ):
        limit = linked.up().max_payload
        assert limit < 8192
        assert not linked.link.publish("small", bytes(limit + 1))
        assert linked.link.publish("small", bytes(limit))
        client.wait_for(lambda messages: [len(payload) for _, payload, _ in messages] == [limit])


def test_a_broker_with_no_room_for_any_message_is_named(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, lines=("max_packet_size 300",)) as tiny, Linked(tiny.url) as linked:
        assert "at most 300 bytes" in linked.down().reason


def test_the_broker_holds_messages_back_until_earlier_ones_are_done(broker: Mosquitto) -> None:
    with Client(broker) as client, Linked(broker.url, receive_maximum=2) as linked:
        linked.up()
        linked.link.subscribe(("flood/+",))
        for number in range(5):
            client.publish(f"flood/{number}", b"water", retain=True)
        taken = [linked.heard.next(Message) for _ in range(2)]
        assert linked.link.publish("elsewhere", b"")
        assert linked.link.drain(WAIT)
        assert linked.heard.events.empty()
        topics = set()
        while len(topics) < 5:
            message = taken.pop(0) if taken else linked.heard.next(Message)
            assert isinstance(message, Message)
            topics.add(message.topic)
            message.done()
        for number in range(5):
            client.publish(f"flood/{number}", b"", retain=True)
