"""One aggregator process under many devices: deltas a second, and memory that does not grow with them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marram.config.load import load
from marram_cloud.aggregator import open_ledger
from marram_cloud.config.schema import Aggregator as Config
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder

from benchmarks.processes import cpu_seconds, pss
from benchmarks.report import Figure, Result, at_most
from benchmarks.senders import Senders, enrol
from examples.shoulder import people
from tests.support.fleet import FLEET, REGION, TOPICS, Aggregator
from tests.support.mosquitto import Mosquitto

_FEW, _MANY, _ROUNDS = 10, 1000, 5
_MIB = float(1 << 20)


@dataclass(frozen=True)
class Run:
    """seconds, processor: of each round, from the first delta to the next offer. memory: PSS after them."""

    devices: int
    seconds: Sequence[float]
    processor: Sequence[float]
    memory: int

    @property
    def rate(self) -> float:
        """Deltas a second, median over the rounds."""
        return self.devices / statistics.median(self.seconds)

    @property
    def cost(self) -> float:
        """Processor seconds a delta, median over the rounds."""
        return statistics.median(self.processor) / self.devices


def measure() -> Result:
    few, many = run(_FEW), run(_MANY)
    busy = sum(many.processor) / sum(many.seconds)
    grown = (many.memory - few.memory) / _MIB
    return Result(
        "One aggregator, many devices",
        "python -m benchmarks aggregator",
        f"A real `marram-cloud run` with Mosquitto; {_MANY} enrolled devices, simulated by one process that "
        "has sealed a round's deltas (the demo's model, the default chain) before it sends the first. A "
        "round's time is from then until the next offer is heard: every delta verified, on disk and summed, "
        "its receipt sent, the new parameters published. Medians of "
        f"{_ROUNDS} rounds; senders and broker share the machine. PSS is read after {_ROUNDS} rounds. "
        "One core's Python bounds it: by a profile of the batches a third goes into decoding each delta "
        "twice (to judge its values, then to sum them), a quarter into CBOR, an eighth into ECDSA, less "
        "than a tenth into SQLite; the link comes on top.",
        (
            Figure(f"deltas a second, {_MANY} devices", f"{many.rate:.0f}"),
            Figure("processor time a delta", f"{many.cost * 1e6:.0f} us ({busy:.0%} of a core in use)"),
            Figure(f"PSS with {_FEW} and with {_MANY} devices", f"{_mib(few)} and {_mib(many)}"),
            at_most(f"PSS with {_MANY} devices / with {_FEW}", many.memory / few.memory, 1.25),
            at_most(f"PSS with {_MANY} devices - with {_FEW}", grown, 20, " MiB"),
        ),
    )


def run(devices: int, rounds: int = _ROUNDS) -> Run:
    """A new aggregator through so many rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A queue without bound: what does not fit another one is lost until the devices send again.
        with Mosquitto(folder, lines=("max_queued_messages 0",)) as broker:
            fleet = FleetFolder.create(folder / "fleet", FLEET, REGION)
            aggregator = Aggregator(
                folder, broker.url, {"minimum_devices": devices // 2, "deadline": "10min"}
            )
            ledger = open_ledger(load(aggregator.config, Config))
            authors = enrol(fleet, ledger, devices)
            ledger.database.close()
            root = authority.load(fleet.path).certificate
            size = people.bundle().manifest.parameter_count
            with Senders(broker.url, authors, root, TOPICS, size) as senders:
                aggregator.start()
                try:
                    return _rounds(aggregator, senders, devices, rounds)
                finally:
                    aggregator.process.kill()


def _rounds(aggregator: Aggregator, senders: Senders, devices: int, rounds: int) -> Run:
    pid, seconds, processor = aggregator.process.pid, [], []
    offer = senders.next_offer()
    for _ in range(rounds):
        frames = senders.seal(offer)
        began, used = time.monotonic(), cpu_seconds(pid)
        senders.send(frames)
        offer = senders.next_offer(offer.round)
        seconds.append(time.monotonic() - began)
        processor.append(cpu_seconds(pid) - used)
        senders.all_taken()
    aggregator.counted_once()
    counted = aggregator.query("SELECT sum(counted) FROM rounds")[0][0]
    assert counted == devices * rounds, f"{counted} of {devices * rounds} deltas were counted"
    return Run(devices, seconds, processor, pss(pid))


def _mib(run: Run) -> str:
    return f"{run.memory / _MIB:.1f} MiB"
