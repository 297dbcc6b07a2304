"""A device that learns on its own: when it trains, what it keeps; and the same workshop in a round."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from marram.config.schema import Governor, Schedule
from marram.errors import StorageError, TrainingError
from marram.learning import journal as journals
from marram.learning import work
from marram.learning.journal import Journal
from marram.learning.local import LocalLearning
from marram.learning.own import Own
from marram.learning.participant import Participant
from marram.learning.rounds import Rounds
from marram.learning.store import SampleStore, StoreSettings
from marram.learning.trainer import Measured, NormalFile, Result
from marram.learning.work import Learnt
from marram.programs.program import ProgramOptions
from marram.storage import open_database
from marram.stream.blocks import Windows
from marram.wire import chunks, envelope
from marram.wire.codec.chain import Chain
from marram.wire.codec.seed import device_seed
from marram.wire.messages import Decline, Delta, Offer, Steps
from marram.wire.parameters import parameters_digest
from marram.wire.signed import AggregatorTrust, read

from tests.support.aggregator import NOW, TOPICS, Voice
from tests.support.identities import author, fleet
from tests.support.training import FREE, Loop, filled_store, workshop
from tests.support.windows import HOST, SHOULDER, bundle, host_windows


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path / "own", bundle(HOST))


def local(tmp_path, own, governor=FREE, **schedule):
    store = filled_store(tmp_path / "windows.db", host_windows(), HOST)
    shop = workshop(tmp_path, store, HOST, governor)
    swapped = []
    learning = LocalLearning(
        Schedule(**{"after": 100, "every": 3600.0, "epochs": 30, **schedule}),
        shop, own, ProgramOptions(), Loop(), lambda *models: swapped.append(models), lambda: "",
    )  # fmt: skip
    return learning, swapped


def learnt(value=0.5):
    parameters = bundle(HOST).parameters() * np.float32(value)
    normal = NormalFile(0.25, [0.0] * 9, [1.0] * 9)
    measured = Measured(10, 0.1, None)
    return Learnt(parameters, normal, Result(10, 1, 0.1, measured, measured, 0.1, 0, 0))


# ---- the schedule


def test_a_device_trains_runs_what_it_learnt_and_waits_for_the_next_time(tmp_path, own):
    learning, swapped = local(tmp_path, own)
    learning.wake(1000.0)
    assert learning.phase == "training"
    learning.loop.turn(1010.0)
    [(model, _)] = swapped
    assert model.normal.threshold > 0
    windows = host_windows(50, seed=2)
    calm = model.predict(windows, np.zeros(50))
    assert sum(prediction.label == "anomaly" for prediction in calm) <= 2
    busy = windows.values.copy()
    busy[:, 0] = 100  # the processor is wholly busy
    loud = model.predict(
        Windows(windows.start, windows.end, busy, windows.labels, windows.repaired), np.zeros(50)
    )
    assert all(prediction.label == "anomaly" for prediction in loud)
    assert loud[0].causes[0].channel == "cpu"
    assert learning.phase == "waiting for the next training"
    learning.wake(1010.0 + 3599.0)
    assert learning.phase == "waiting for the next training"
    assert learning.wake_at <= 1010.0 + 3600.0


def test_a_device_whose_clock_is_in_1970_trains_on_what_it_saw(tmp_path, own, monkeypatch):
    """The daemon's time is never before the agent's release; the windows bear the time of the machine."""
    manifest = bundle(HOST).manifest
    month = StoreSettings(64 << 20, 30 * 86400.0, 1e9, 0.2)
    store = SampleStore(tmp_path / "windows.db", manifest.family, (9, 16), month, seed=1)
    store.add(host_windows(), 3200.0)
    monkeypatch.setattr(work, "time", SimpleNamespace(time=lambda: 3200.0))
    schedule = Schedule(after=100, every=3600.0, epochs=1)
    swapped = []
    learning = LocalLearning(
        schedule,
        workshop(tmp_path, store, HOST),
        own,
        ProgramOptions(),
        Loop(),
        lambda *models: swapped.append(models),
        lambda: "",
    )
    learning.wake(NOW)
    learning.loop.turn(NOW + 10)
    assert len(swapped) == 1, learning.phase


def test_a_device_with_too_few_windows_says_so_and_looks_again(tmp_path, own):
    learning, swapped = local(tmp_path, own, after=1000)
    learning.wake(1000.0)
    assert "200 windows to train on, 1000 are needed" in learning.phase
    assert 1000.0 < learning.wake_at <= 1060.0
    assert swapped == []


def test_nothing_is_trained_while_all_windows_are_held_out(tmp_path, own):
    """A device's first windows may be of one stretch: such a training could only fail."""
    learning, _ = local(tmp_path, own)
    manifest = bundle(HOST).manifest
    everything_held_out = StoreSettings(64 << 20, 1e12, 30.0, 1.0)
    store = SampleStore(tmp_path / "held.db", manifest.family, (9, 16), everything_held_out, seed=1)
    learning.workshop.store = store
    store.add(host_windows(), 0.0)
    for _ in range(2):  # pending, and on the disk
        learning.wake(1000.0)
        assert learning.phase == "not training: all 200 windows so far are held out to evaluate on"
        store.flush(0.0)


def test_the_governors_reason_is_what_the_phase_says(tmp_path, own):
    learning, _ = local(tmp_path, own, governor=Governor(min_new_samples=500))
    learning.wake(1000.0)
    assert "200 new windows" in learning.phase


def test_a_training_that_fails_is_said_and_tried_again_later(tmp_path, own):
    learning, swapped = local(tmp_path, own, learning_rate=1e30)
    learning.wake(1000.0)
    with pytest.raises(TrainingError, match="diverged"):
        learning.loop.turn(1010.0)
    assert "diverged" in learning.phase
    assert learning.wake_at == 1070.0
    assert own.load() is None
    assert swapped == []
    learning.wake(1070.0)
    assert learning.phase == "training"
    learning.workshop.stop()


def test_a_training_that_cannot_begin_is_tried_again_later(tmp_path, own):
    learning, _ = local(tmp_path, own)
    learning.workshop.folder = tmp_path / "windows.db" / "training"  # below a file: cannot be made
    own.save(learnt(), 0.0)
    with pytest.raises(StorageError):
        learning.wake(4000.0)
    assert learning.wake_at == 4060.0
    learning.workshop.folder = tmp_path / "training"
    learning.wake(4060.0)
    assert learning.phase == "training"
    learning.workshop.stop()


def test_the_second_training_goes_on_from_the_first(tmp_path, own):
    learning, _ = local(tmp_path, own, epochs=3)
    learning.wake(1000.0)
    learning.loop.turn(1010.0)
    first = learning.workshop.last
    learning.wake(5000.0)
    learning.loop.turn(5010.0)
    second = learning.workshop.last
    assert second.before == first.after
    assert learning.workshop.store.counts().new == 0


# ---- what was learnt, on disk


def test_what_was_learnt_survives_a_restart(tmp_path, own):
    own.save(learnt(), 77.0)
    about, vector = Own(tmp_path / "own", bundle(HOST)).load()
    assert about.trained == 77.0
    np.testing.assert_array_equal(vector, learnt().parameters)
    assert Own(tmp_path / "own", bundle(HOST)).models(ProgramOptions()).model.normal.threshold == 0.25


def test_a_device_that_has_learnt_nothing_has_no_model(own):
    assert own.models(ProgramOptions()) is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_damaged_parameters_are_not_run(tmp_path, own, damage):
    own.save(learnt(), 77.0)
    [file] = (tmp_path / "own").glob("*.f32")
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-3])
    assert own.load() is None


def test_damaged_words_about_the_parameters_are_not_believed(tmp_path, own):
    own.save(learnt(), 77.0)
    (tmp_path / "own" / "own.json").write_bytes(b'{"family":')
    assert own.load() is None


def test_a_power_cut_between_the_two_files_leaves_what_was_learnt_before(tmp_path, own):
    own.save(learnt(0.5), 77.0)
    old = (tmp_path / "own" / "own.json").read_bytes()
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    own.save(learnt(0.7), 99.0)
    [new] = (tmp_path / "own").glob("*.f32")
    shutil.copy(new, tmp_path / "copy")  # the new parameters were written, the words about them not yet
    assert (tmp_path / "copy" / "own.json").read_bytes() == old
    about, vector = Own(tmp_path / "copy", bundle(HOST)).load()
    assert about.trained == 77.0
    np.testing.assert_array_equal(vector, learnt(0.5).parameters)


def test_only_the_newest_parameters_stay_on_the_disk(tmp_path, own):
    for value in (0.5, 0.6, 0.7):
        own.save(learnt(value), 77.0)
    assert len(list((tmp_path / "own").glob("*.f32"))) == 1


def test_what_was_learnt_for_another_model_is_not_run(tmp_path, own):
    own.save(learnt(), 77.0)
    assert Own(tmp_path / "own", bundle(SHOULDER)).load() is None


# ---- a fleet's round with the same workshop


class Wire:
    """A link that keeps the whole messages."""

    def __init__(self):
        self.sent = []
        self._frames = chunks.Assembler(1 << 24, 4)

    def publish(self, topic, payload, retain=False):
        if (message := self._frames.add(payload)) is not None:
            self.sent.append((topic, message))
        return True

    def subscribe(self, topics):
        pass

    unsubscribe = subscribe


def rounds(tmp_path):
    store = filled_store(tmp_path / "windows.db")
    manifest = bundle(SHOULDER).manifest
    initial = bundle(SHOULDER).parameters()
    journal = Journal(open_database(tmp_path / "journal.db", journals.SCHEMA), manifest.family, initial)
    trust = AggregatorTrust(fleet().certificate, "fleet", "region")

    def make():
        return Participant(TOPICS, author("device", "device-1"), trust, manifest.family, journal.memory())

    wire = Wire()
    made = Rounds(make, journal, wire, workshop(tmp_path, store), Loop())
    made.connected(96 * 1024, NOW)
    return made, wire


def offer(**changes):
    initial = bundle(SHOULDER).parameters()
    fields = {
        "run": b"r" * 16, "round": 0, "model": "shoulder",
        "family": bundle(SHOULDER).manifest.family, "version": 0,
        "digest": parameters_digest(initial), "chain": "float32", "seed": 5, "steps": Steps(1, 16, 0.05),
        "minimum": 16, "artefacts": (), **changes,
    }  # fmt: skip
    return Offer(**fields)


def test_a_round_gives_a_delta_that_is_new_minus_base_with_its_evaluations(tmp_path):
    made, wire = rounds(tmp_path)
    made.arrived(TOPICS.round, Voice().sealed_offer(offer()), NOW)
    made.loop.turn(NOW)
    [(topic, sealed)] = wire.sent
    assert topic == TOPICS.up("device-1", "delta")
    delta = read(envelope.parse(sealed, 1 << 24), Delta)
    initial = bundle(SHOULDER).parameters()
    change = Chain.parse("float32").decode(delta.payload, len(initial), device_seed(5, "device-1"))
    trained = np.fromfile(tmp_path / "training" / "parameters.f32", "<f4")
    np.testing.assert_allclose(initial + change, trained, atol=1e-6)
    assert delta.samples > 300
    assert delta.after.loss < delta.before.loss
    assert made.deltas == 1
    assert made.workshop.store.counts().new_labelled == 0


def test_a_round_that_asks_for_more_windows_than_there_are_is_declined_with_both_numbers(tmp_path):
    made, wire = rounds(tmp_path)
    made.arrived(TOPICS.round, Voice().sealed_offer(offer(minimum=10_000)), NOW)
    [(_, sealed)] = wire.sent
    assert "10000 are needed" in read(envelope.parse(sealed, 1 << 24), Decline).reason


def test_a_round_whose_training_fails_is_declined_with_the_trainers_words(tmp_path):
    made, wire = rounds(tmp_path)
    bad = offer(steps=Steps(1, 16, 1e30))
    made.arrived(TOPICS.round, Voice().sealed_offer(bad), NOW)
    made.loop.turn(NOW)
    [(_, sealed)] = wire.sent
    assert "diverged" in read(envelope.parse(sealed, 1 << 24), Decline).reason
    assert made.deltas == 0


# ---- a schedule and rounds, which train in one child


def both(tmp_path, epochs):
    """(rounds, what they send, a schedule of so many epochs in the same workshop, what it has run)."""
    made, wire = rounds(tmp_path)
    swapped = []
    learning = LocalLearning(
        Schedule(after=100, every=3600.0, epochs=epochs, learning_rate=1e-6),
        made.workshop, Own(tmp_path / "own", bundle(SHOULDER)), ProgramOptions(), Loop(),
        lambda *models: swapped.append(models), lambda: "",
    )  # fmt: skip
    return made, wire, learning, swapped


def test_a_schedule_waits_while_a_round_trains(tmp_path):
    made, wire, learning, swapped = both(tmp_path, epochs=1)
    made.arrived(TOPICS.round, Voice().sealed_offer(offer(steps=Steps(3, 16, 1e-6))), NOW)
    learning.wake(NOW)
    assert learning.phase == "not training: another training runs"
    made.loop.turn(NOW)
    assert [topic for topic, _ in wire.sent] == [TOPICS.up("device-1", "delta")]
    learning.wake(learning.wake_at)
    learning.loop.turn(NOW + 10)
    assert len(swapped) == 1


def test_no_round_ends_a_training_on_a_schedule(tmp_path):
    made, wire, learning, swapped = both(tmp_path, epochs=3)
    voice = Voice()
    learning.wake(NOW)
    for number in range(2):
        made.arrived(TOPICS.round, voice.sealed_offer(offer(round=number)), NOW)
        _, sealed = wire.sent[-1]
        assert read(envelope.parse(sealed, 1 << 24), Decline).reason == "another training runs"
    learning.loop.turn(NOW + 10)
    assert len(swapped) == 1
    made.wake(made.wake_at)
    made.loop.turn(NOW + 60)
    _, sealed = wire.sent[-1]
    assert read(envelope.parse(sealed, 1 << 24), Delta).round == 1


def test_a_newer_round_ends_the_training_of_the_older_and_only_its_delta_is_sent(tmp_path):
    made, wire = rounds(tmp_path)
    voice = Voice()
    made.arrived(TOPICS.round, voice.sealed_offer(offer(steps=Steps(1000, 16, 1e-6))), NOW)
    made.arrived(TOPICS.round, voice.sealed_offer(offer(round=1)), NOW)
    made.loop.turn(NOW)
    [(_, sealed)] = wire.sent
    assert read(envelope.parse(sealed, 1 << 24), Delta).round == 1
