"""A simulated clock and a broker whose network loses, doubles and reorders, all from one seeded source."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache


@dataclass
class Clock:
    """Runs scheduled calls in the order of their time."""

    now: float = 1_760_000_000.0
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _number: int = 0

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (max(time, self.now), self._number, call))

    def run(self, until: float, done: Callable[[], bool]) -> None:
        """Until ``done`` says so or the simulated time is over."""
        while self._queue and self._queue[0][0] <= until and not done():
            self.now, _, call = heapq.heappop(self._queue)
            call()


@dataclass(frozen=True)
class Weather:
    """How bad the network is: probabilities per message and hop, delays in seconds."""

    loss: float
    double: float
    delay: float


@dataclass
class Client:
    """One connection to the broker; ``deliver`` is called for each message that gets through."""

    name: str
    deliver: Callable[[str, bytes], None]
    will: tuple[str, bytes] | None = None
    connected: bool = False
    topics: set[str] = field(default_factory=set)


@dataclass
class Broker:
    """Retained messages, wills and subscriptions with ``+``; every hop passes through the weather."""

    clock: Clock
    weather: Weather
    random: random.Random
    retained: dict[str, bytes] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    tap: list[tuple[str, bytes]] = field(default_factory=list)
    listener: Callable[[str, bytes], None] | None = None

    def connect(self, client: Client) -> None:
        client.connected = True
        client.topics.clear()
        self.clients[client.name] = client

    def cut(self, client: Client) -> None:
        """The connection is gone; the broker publishes the will."""
        if client.connected:
            client.connected = False
            if client.will:
                self._take(client.will[0], client.will[1], True)

    def publish(self, client: Client, topic: str, payload: bytes, retain: bool) -> bool:
        if not client.connected:
            return False
        # Retained messages (offers, parameters) are not lost on the way up: MQTT's QoS 1 on one live
        # connection. Deltas and receipts are, which is worse than QoS 1.
        copies = 1 if retain else self._copies()
        for _ in range(copies):
            delay = 0.01 if retain else self._delay()
            self.clock.at(self.clock.now + delay, lambda: self._take(topic, payload, retain))
        return True

    def subscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        for topic in topics:
            client.topics.add(topic)
            for name, payload in list(self.retained.items()):
                if matches(topic, name):
                    self._send(client, name, payload)

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        client.topics -= set(topics)

    def inject(self, topic: str, payload: bytes) -> None:
        """A message of somebody who found a way in; it arrives at once."""
        self.tap.append((topic, payload))
        for client in self.clients.values():
            if client.connected and any(matches(own, topic) for own in client.topics):
                self.clock.at(self.clock.now, self._arrival(client, topic, payload))

    def _take(self, topic: str, payload: bytes, retain: bool) -> None:
        self.tap.append((topic, payload))
        if self.listener is not None:
            self.listener(topic, payload)
        if retain:
            if payload:
                self.retained[topic] = payload
            else:
                self.retained.pop(topic, None)
        for client in self.clients.values():
            if client.connected and any(matches(own, topic) for own in client.topics):
                self._send(client, topic, payload)

    def _send(self, client: Client, topic: str, payload: bytes) -> None:
        arrive = self._arrival(client, topic, payload)
        for _ in range(self._copies()):
            self.clock.at(self.clock.now + self._delay(), arrive)

    def _arrival(self, client: Client, topic: str, payload: bytes) -> Callable[[], None]:
        session = client.topics

        def arrive() -> None:
            if client.connected and client.topics is session:
                client.deliver(topic, payload)

        return arrive

    def _copies(self) -> int:
        if self.random.random() < self.weather.loss:
            return 0
        return 2 if self.random.random() < self.weather.double else 1

    def _delay(self) -> float:
        return self.random.expovariate(1 / self.weather.delay)


@cache
def matches(pattern: str, topic: str) -> bool:
    """MQTT's topic filter, for the ``+`` that Marram uses."""
    wanted, found = pattern.split("/"), topic.split("/")
    return len(wanted) == len(found) and all(w in ("+", f) for w, f in zip(wanted, found, strict=True))
