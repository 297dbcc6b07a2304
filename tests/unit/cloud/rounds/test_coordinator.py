"""The coordinator: any order of deltas, declines, presence and time keeps what a round promises."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from marram.wire import reasons
from marram_cloud.rounds import coordinator as machine
from marram_cloud.rounds.coordinator import Coordinator, OpenRound, Rules

DEVICES = ("a", "b", "c", "d")
BASE = b"b" * 32


def open_round(number, opened=0.0, accepted=()):
    return OpenRound(number, number, BASE, "float32", opened, frozenset(accepted))


def came(device="a", round=0, counter=1, known=False, base=BASE, chain="float32", last=0):
    return machine.DeltaCame(
        device, f"{device}{round}{counter}".encode(), round, base, chain, counter, known, last
    )


def opened(rules=None, number=0, now=0.0, accepted=()):
    coordinator = Coordinator(rules or Rules(minimum=2, deadline=60.0, settle=1.0))
    coordinator.handle(machine.Opened(open_round(number, now, accepted)), now)
    return coordinator


def test_a_round_is_published_when_its_time_has_come_and_not_before():
    coordinator = Coordinator(Rules(2, 60.0))
    assert coordinator.handle(machine.Opened(open_round(0, opened=100.0)), 50.0) == []
    assert coordinator.wake_at == 100.0
    assert coordinator.handle(machine.Woke(), 100.0) == [machine.Publish(open_round(0, opened=100.0))]


def test_a_rebuilt_round_remembers_whose_deltas_are_in():
    coordinator = opened(accepted=("a",))
    [refusal] = coordinator.handle(came("a", counter=9, last=1), 1.0)
    assert refusal.reason == reasons.REPLAYED
    assert coordinator.accepted == {"a"}


def test_before_any_round_a_delta_is_stale():
    [refusal] = Coordinator(Rules(1, 60.0)).handle(came(), 0.0)
    assert refusal.reason == reasons.STALE_ROUND


def test_the_reasons_have_an_order_that_tells_the_sender_most():
    coordinator = opened(number=3)
    asked = {
        reasons.STALE_ROUND: came(round=2, base=b"", chain="", counter=0),
        reasons.WRONG_BASE: came(round=3, base=b"", chain="", counter=0),
        reasons.WRONG_CHAIN: came(round=3, chain="", counter=0),
        reasons.REPLAYED: came(round=3, counter=0),
    }
    for reason, event in asked.items():
        [refusal] = coordinator.handle(event, 0.0)
        assert refusal.reason == reason


def test_who_answered_twice_does_not_stand_for_a_device_that_has_not():
    coordinator = opened(Rules(minimum=2, deadline=60.0, settle=0.0))
    for device in ("a", "b", "c"):
        coordinator.handle(machine.Presence(device, True), 0.0)
    coordinator.handle(machine.Declined("a", 0, "busy"), 0.0)
    coordinator.handle(machine.DeltaStored("a", b"a", 0), 1.0)
    assert [type(action) for action in coordinator.handle(machine.DeltaStored("b", b"b", 0), 1.0)] == [
        machine.Confirm
    ]
    confirm, close = coordinator.handle(machine.DeltaStored("c", b"c", 0), 1.0)
    assert (confirm.device, close.round.number) == ("c", 0)


def test_a_round_that_is_offered_late_has_its_whole_time_from_then_on():
    coordinator = Coordinator(Rules(1, 60.0))
    coordinator.handle(machine.Opened(open_round(0, opened=100.0)), 50.0)
    [offer] = coordinator.handle(machine.Woke(), 300.0)
    assert (offer.round.number, coordinator.wake_at) == (0, 360.0)


class AnyOrder(RuleBasedStateMachine):
    """The test is the ledger: it commits what is to be stored, and opens the next round at each close."""

    @initialize(
        minimum=st.integers(1, 4), settle=st.sampled_from([0.0, 1.0, 10.0]), every=st.sampled_from([0, 30])
    )
    def begin(self, minimum, settle, every):
        self.rules, self.every = Rules(minimum, 60.0, settle), every
        self.now = 1000.0
        self.coordinator = Coordinator(self.rules)
        self.ledger: dict[int, set[str]] = {0: set()}
        self.closed: dict[int, set[str]] = {}
        self.opened = {0: self.now}
        self.published: list[int] = []
        self.confirmed: set[tuple[str, int]] = set()
        self.counters = dict.fromkeys(DEVICES, 0)
        self.online: set[str] = set()
        self.declined: set[str] = set()
        self.handle(machine.Opened(open_round(0, self.now)))

    @property
    def number(self):
        return max(self.ledger)

    def handle(self, event):
        for action in self.coordinator.handle(event, self.now):
            match action:
                case machine.Publish():
                    assert action.round.number == self.number
                    assert self.now >= self.opened[self.number]
                    self.deadline = self.now + 60.0
                    self.published.append(action.round.number)
                case machine.Store():
                    assert action.device not in self.ledger[self.number]
                    self.ledger[self.number].add(action.device)
                    self.counters[action.device] += 1
                    self.handle(machine.DeltaStored(action.device, action.digest, self.number))
                case machine.Confirm():
                    assert action.device in self.ledger[action.round], "a receipt before the delta is on disk"
                    self.confirmed.add((action.device, action.round))
                case machine.Close():
                    self.close(action.round.number)

    def close(self, number):
        assert number == self.number
        assert number not in self.closed
        assert number in self.published
        accepted = self.ledger[number]
        assert len(accepted) >= self.rules.minimum
        waited_for = self.online - accepted - self.declined
        assert not waited_for or self.now >= self.deadline
        assert self.now >= self.opened[number] + self.rules.settle
        self.closed[number] = set(accepted)
        self.ledger[number + 1] = set()
        self.opened[number + 1] = max(self.now, self.opened[number] + self.every)
        self.declined = set()
        self.handle(machine.Opened(open_round(number + 1, self.opened[number + 1])))

    @rule(device=st.sampled_from(DEVICES), behind=st.integers(0, 2), fresh=st.booleans())
    def delta(self, device, behind, fresh):
        number = max(0, self.number - behind)
        known = device in self.ledger[number]
        counter = self.counters[device] + (1 if fresh else 0)
        self.handle(came(device, number, counter, known, last=self.counters[device]))
        if known:
            assert (device, number) in self.confirmed

    @rule(device=st.sampled_from(DEVICES), behind=st.integers(0, 1))
    def decline(self, device, behind):
        if behind == 0:
            self.declined.add(device)
        self.handle(machine.Declined(device, self.number - behind, "no"))

    @rule(device=st.sampled_from(DEVICES), online=st.booleans())
    def presence(self, device, online):
        (self.online.add if online else self.online.discard)(device)
        self.handle(machine.Presence(device, online))

    @rule()
    def wake(self):
        wake = self.coordinator.wake_at
        assert wake is not None, "an open round without a next moment would stand still"
        self.now = max(self.now, wake)
        number = self.number
        self.handle(machine.Woke())
        assert self.coordinator.wake_at > self.now or self.number > number, "it would wake for ever"
        if number == self.number and self.now >= self.deadline and self.published[-1:] == [number]:
            self.deadline = self.now + 60.0

    @rule(seconds=st.sampled_from([0.1, 5.0, 70.0]))
    def time(self, seconds):
        self.now += seconds

    @rule()
    def restart(self):
        self.coordinator = Coordinator(self.rules, online=set(self.online))
        self.declined = set()
        number = self.number
        self.handle(machine.Opened(open_round(number, self.opened[number], self.ledger[number])))

    @invariant()
    def every_round_is_published_before_it_is_closed_and_every_delta_is_confirmed(self):
        if not hasattr(self, "ledger"):
            return
        for number, devices in self.ledger.items():
            assert all((device, number) in self.confirmed for device in devices)
        assert self.coordinator.round.number == self.number
        assert self.coordinator.accepted == self.ledger[self.number]
        wake = self.coordinator.wake_at
        assert wake is not None
        assert wake <= max(self.now, self.opened[self.number]) + 60.0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
