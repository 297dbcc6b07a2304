"""A whole region in one process: devices, broker, aggregator, clock, network and power, from one seed.

The machines under test are the real ones: ``Participant`` with its ``Shell`` and ``Journal``, and
``Service`` with ``Coordinator`` and ``Ledger``, real COSE and a real codec chain. Simulated are the clock,
the network, the disk's power, the governor and the training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from marram.errors import StorageError, WireError
from marram.learning import journal as journals
from marram.learning import participant as machine
from marram.learning.journal import Journal
from marram.learning.participant import Participant
from marram.learning.shell import Outcome, Shell
from marram.wire import certificates, envelope
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Metrics, Offer, Receipt, Steps
from marram.wire.signed import AggregatorTrust, read
from marram.wire.topics import Topics
from marram_cloud.engines.local import LocalEngine
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger
from marram_cloud.rounds.coordinator import Rules
from marram_cloud.rounds.service import Model, Service
from marram_cloud.rounds.settings import RoundSettings
from marram_cloud.strategies.fedavg import FedAvg

from tests.simulation.attacker import Attacker
from tests.simulation.disk import Crash, Disk, new_disk
from tests.simulation.network import Broker, Client, Clock, Weather
from tests.support.identities import author, certified, fleet

SIZE = 48
TOPICS = Topics("fleet", "region")
FAMILY = "f" * 64
INITIAL = np.linspace(-1, 1, SIZE, dtype=np.float32)
CHAINS = (
    "float32",
    "clip(100)|feedback|rotate(16)|quantise(1,16)",
    "feedback|rotate(32)|quantise(4)",
    "feedback|topk(0.2)|quantise(8,16)",
)


@dataclass
class Machine:
    """Something with a disk and a power supply that fails now and then at a commit."""

    world: World
    name: str
    disk: Disk
    client: Client | None = None
    alive: bool = False
    crashes: int = 0
    generation: int = 0
    armed: float = 0.0

    def power_fails(self) -> bool:
        return self.world.stormy and self.world.random.random() < self.world.crash_chance

    def disk_fails(self) -> bool:
        return self.world.stormy and self.world.random.random() < self.world.fault_chance

    def guarded(self, call: object) -> None:
        """Run a call of the machine; a crash takes it down for a while."""
        if not self.alive:
            return
        try:
            call()  # type: ignore[operator]
        except Crash:
            self.crash()
            return
        self.arm()

    def crash(self) -> None:
        self.crashes += 1
        self.alive = False
        if self.client is not None:
            self.world.broker.cut(self.client)
        clock = self.world.clock
        clock.at(clock.now + self.world.random.uniform(0.1, 60), self.boot)

    def boot(self) -> None:
        """Power is back."""
        self.alive = True
        self.generation += 1
        self.armed = 0.0
        try:
            self.start_up()
        except (Crash, StorageError):
            # A process that cannot begin ends, and is started again by its supervisor.
            self.crash()

    def start_up(self) -> None:
        raise NotImplementedError

    def arm(self) -> None:
        raise NotImplementedError


@dataclass
class Device(Machine):
    """One device. learnt: the vectors of all trainings whose end reached its disk, by run and round.

    made: the digests of all deltas that reached its disk.
    """

    shell: Shell | None = None
    learnt: dict[tuple[bytes, int], np.ndarray] = field(default_factory=dict)
    made: set[bytes] = field(default_factory=set)

    def start_up(self) -> None:
        journal = Journal(self.disk, FAMILY, INITIAL)
        certificate, _ = certified("device", self.name)
        trust = AggregatorTrust(fleet().certificate, "fleet", "region")
        assert certificate is not None

        def make() -> Participant:
            return Participant(TOPICS, author("device", self.name), trust, FAMILY, journal.memory())

        will = (TOPICS.state(self.name), b'{"online":false}')
        self.client = Client(self.name, self.deliver, will)
        self.shell = Shell(make, journal, self, self, self.permit, chunk_limit=90)
        self.connect()

    def connect(self) -> None:
        if not self.alive or self.client.connected:
            return
        self.world.broker.connect(self.client)
        self.publish(TOPICS.state(self.name), b'{"online":true}', retain=True)
        self.guarded(lambda: self.shell.dispatch(machine.Connected(), self.world.clock.now))
        generation = self.generation
        if self.world.stormy and self.world.drop_pause is not None:
            clock, pause = self.world.clock, self.world.drop_pause
            clock.at(clock.now + self.world.random.expovariate(1 / pause), lambda: self.drop(generation))

    def drop(self, generation: int) -> None:
        """The network goes away for a while."""
        if not self.alive or generation != self.generation:
            return
        self.world.broker.cut(self.client)
        clock = self.world.clock
        self.guarded(lambda: self.shell.dispatch(machine.Disconnected(), clock.now))
        clock.at(clock.now + self.world.random.uniform(0.1, 120), self.connect)

    def deliver(self, topic: str, payload: bytes) -> None:
        self.guarded(lambda: self.shell.dispatch(machine.Arrived(topic, payload), self.world.clock.now))

    def arm(self) -> None:
        assert self.shell is not None
        wake = self.shell.participant.wake_at
        if wake is None or wake == self.armed:
            return
        self.armed = wake
        generation = self.generation

        def woke() -> None:
            if generation == self.generation and self.armed == wake:
                self.armed = 0.0
                self.guarded(lambda: self.shell.dispatch(machine.Woke(), self.world.clock.now))

        self.world.clock.at(wake, woke)

    # the shell's link
    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        return self.world.broker.publish(self.client, topic, payload, retain)

    def subscribe(self, topics: tuple[str, ...]) -> None:
        self.world.broker.subscribe(self.client, topics)

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        self.world.broker.unsubscribe(self.client, topics)

    # the shell's governor and trainer
    def permit(self, offer: Offer) -> tuple[bool, str]:
        willing = not self.world.stormy or self.world.random.random() > 0.1
        return willing, "" if willing else "busy"

    def start(self, offer: Offer) -> None:
        generation = self.generation
        rng = np.random.default_rng([self.world.seed, offer.round, int(self.name.rpartition("-")[2])])
        delta = rng.normal(size=SIZE).astype(np.float32)
        samples = int(rng.integers(1, 100))

        def finish() -> None:
            if not self.alive or generation != self.generation:
                return
            metrics = Metrics(10, 1.0, 0.5)
            outcome = Outcome(delta, samples, metrics, metrics)
            self.guarded(lambda: self.shell.trained(offer, outcome, self.world.clock.now))
            self.made |= {row[0] for row in self.disk.execute("SELECT digest FROM outbox")}
            done = self.disk.execute("SELECT value FROM facts WHERE name = 'done_round'").fetchone()
            if done is not None and done[0] == offer.round:
                self.learnt[offer.run, offer.round] = delta

        self.world.clock.at(self.world.clock.now + self.world.random.uniform(0.5, 30), finish)

    def stop(self) -> None:
        pass


@dataclass
class Aggregator(Machine):
    """The one aggregator; now and then a crash takes its ledger."""

    service: Service | None = None

    def crash(self) -> None:
        super().crash()
        world = self.world
        if world.stormy and world.lost < world.losses and world.random.random() < 0.3:
            world.lose_ledger()

    def start_up(self) -> None:
        world = self.world
        self.client = Client("aggregator", self.deliver)
        self.service = Service(
            ledger=Ledger(self.disk),
            author=author("aggregator", "aggregator"),
            authority=fleet().certificate,
            topics=TOPICS,
            model=Model("model", FAMILY, INITIAL),
            settings=RoundSettings(
                rules=Rules(minimum=world.minimum, deadline=60.0),
                steps=Steps(1, 16, 0.05),
                chain=world.chain,
                update_chain=world.update_chain,
                strategy=FedAvg(),
                snapshot_every=3,
                keep_payloads=1000,
                part_size=100,
            ),
            engine=LocalEngine(),
            send=lambda topic, payload, retain: (
                world.broker.publish(self.client, topic, payload, retain) and None
            ),
        )
        world.broker.connect(self.client)
        self.guarded(lambda: self.service.start(world.clock.now))
        if self.alive:
            world.broker.subscribe(self.client, self.service.subscriptions())
            self.guarded(lambda: self.service.connected(world.clock.now))

    def deliver(self, topic: str, payload: bytes) -> None:
        self.guarded(lambda: self.service.take([(topic, payload)], self.world.clock.now))

    def arm(self) -> None:
        wake = self.service.wake_at
        if wake is None or wake == self.armed:
            return
        self.armed = wake
        generation = self.generation

        def woke() -> None:
            if generation == self.generation and self.armed == wake:
                self.armed = 0.0
                self.guarded(lambda: self.service.wake(self.world.clock.now))

        self.world.clock.at(wake, woke)


class World:
    """See the module's docstring."""

    def __init__(self, seed: int, devices: int = 4, rounds: int = 5) -> None:
        self.seed, self.rounds = seed, rounds
        self.random = random.Random(seed)
        self.stormy = True
        self.crash_chance = self.random.choice([0.0, 0.01, 0.04])
        self.fault_chance = self.random.choice([0.0, 0.05])
        hostile = self.random.choice([0.0, 0.005, 0.03])
        self.losses, self.lost = self.random.choice([0, 0, 1, 2]), 0
        self.lost_deltas: set[bytes] = set()
        self.minimum = self.random.randint(1, devices)
        self.chain = self.random.choice(CHAINS)
        self.update_chain = self.random.choice(["float32", "rotate(16)|quantise(4,16)"])
        loss, double = self.random.choice([0.0, 0.05, 0.3]), self.random.choice([0.0, 0.1, 0.3])
        # What is lost is only sent again on a new connection, so only a network without loss may never break.
        self.drop_pause = 200.0 if loss else self.random.choice([None, 200.0])
        self.clock = Clock(fleet().certificate.not_valid_before_utc.timestamp() + 10 * 86400)
        weather = Weather(loss, double, self.random.choice([0.02, 1.0, 8.0]))
        self.broker = Broker(self.clock, weather, self.random)
        self.broker.listener = Attacker(
            self.broker, self.clock, self.random, hostile, lambda: self.stormy
        ).hears
        self.aggregator = Aggregator(self, "aggregator", new_disk(ledgers.SCHEMA))
        self.devices = [
            Device(self, f"device-{number}", new_disk(journals.SCHEMA)) for number in range(devices)
        ]
        for machine_ in (self.aggregator, *self.devices):
            machine_.disk.power, machine_.disk.broken = machine_.power_fails, machine_.disk_fails
        self.enrol()

    @property
    def ledger_disk(self) -> Disk:
        return self.aggregator.disk

    def enrol(self) -> None:
        for device in self.devices:
            Ledger(self.ledger_disk).add_device(device.name, certified("device", device.name)[0], 0.0)

    def lose_ledger(self) -> None:
        """The disk of the aggregator is gone; it goes on with an empty one."""
        self.lost += 1
        self.lost_deltas |= {row[0] for row in self.ledger_disk.execute("SELECT digest FROM deltas")}
        disk = new_disk(ledgers.SCHEMA)
        disk.power, disk.broken = self.aggregator.power_fails, self.aggregator.disk_fails
        self.aggregator.disk = disk
        self.enrol()

    def run(self, hours: float = 0.7) -> None:
        """All machines start at some moment of the first minute; then the storm, then the calm."""
        self.clock.at(self.clock.now + self.random.uniform(0, 60), self.aggregator.boot)
        for device in self.devices:
            self.clock.at(self.clock.now + self.random.uniform(0, 60), device.boot)
        end = self.clock.now + hours * 3600
        self.clock.run(end, self.finished)
        self.stormy = False
        self.broker.weather = Weather(0.0, 0.0, 0.05)
        # In the calm everything that is still owed must arrive by itself.
        self.clock.run(self.clock.now + 3 * 3600, self.settled)

    def finished(self) -> bool:
        ledger = Ledger(self.ledger_disk)
        if self.ledger_disk.in_transaction:
            return False
        done = ledger.database.execute("SELECT count(*) FROM rounds WHERE closed IS NOT NULL").fetchone()[0]
        return bool(done >= self.rounds)

    def settled(self) -> bool:
        """Nothing is owed any more, and every device holds the open round's parameters."""
        if not self.finished():
            return False
        version = Ledger(self.ledger_disk).latest_version().version
        return all(
            device.alive
            and not device.shell.participant.outbox
            and device.shell.participant.held.version == version
            for device in self.devices
        )


def replayed_sum(world: World) -> np.ndarray:
    """The published parameters again, from the ledger's own deltas, by a few plain lines of float64."""
    ledger = Ledger(world.ledger_disk)
    exact = INITIAL.astype(np.float64)
    for done in ledger.rounds():
        if done.closed is None:
            continue
        total, weight = np.zeros(SIZE), 0
        for device, samples in ledger.delta_devices(done.number):
            payload = ledger.delta_payload(done.number, device)
            delta = Chain.parse(done.chain).decode(payload, SIZE, device_seed(done.seed, device))
            total += samples * delta.astype(np.float64)
            weight += samples
        exact = exact + total / weight
    return exact


def receipts(world: World) -> set[bytes]:
    """The digests of all deltas whose receipt the aggregator ever sent."""
    certificate, _ = certified("aggregator", "aggregator")
    key = certificates.public_key(certificate)
    found = set()
    for topic, payload in world.broker.tap:
        if topic.endswith("/receipt"):
            try:
                sealed = envelope.parse(payload, 10_000)
                envelope.verify(sealed, topic, key)
            except WireError:
                continue  # the attacker's
            found.add(read(sealed, Receipt).delta)
    return found


def told(world: World, device: Device) -> np.ndarray:
    """The sum of all that the ledger took from a device, decoded."""
    total = np.zeros(SIZE)
    ledger = Ledger(world.ledger_disk)
    for done in ledger.rounds():
        if device.name in dict(ledger.delta_devices(done.number)):
            payload = ledger.delta_payload(done.number, device.name)
            total += Chain.parse(done.chain).decode(payload, SIZE, device_seed(done.seed, device.name))
    return total
