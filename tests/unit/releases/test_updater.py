"""Releases over the broker: what is signed and sound gets in front of inference, everything else does not."""

import queue
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.errors import ProgramError
from marram.releases.slots import Slots
from marram.releases.updater import Updater

from tests.support.aggregator import NOW, TOPICS
from tests.support.releases import MODEL, announced, another_family, infer, release_key, released
from tests.support.windows import SHOULDER, bundle


@dataclass
class Home:
    """A device's updater; the test is broker, loop and inference."""

    folder: object
    retained: dict[str, bytes] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)
    running: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    refuses: bool = False
    now: float = NOW

    def __post_init__(self):
        self.boot()

    def boot(self):
        self.calls = queue.Queue()
        self.topics.clear()
        self.slots = Slots(self.folder / "slots", bundle(SHOULDER))
        self.updater = Updater(
            topics=TOPICS,
            model=MODEL,
            release_key=release_key(0).public_key(),
            link=self,
            slots=self.slots,
            spool=self.folder / "spool",
            memory=512 << 20,
            loop=self,
            swap=self.swap,
            installed=lambda: self.told.append(self.slots.current().version),
        )
        self.updater.connected()

    def swap(self, released):
        if self.refuses:
            raise ProgramError("inference cannot run it")
        self.running.append(released.manifest.version)

    def post(self, call):
        self.calls.put(call)

    def publish(self, topic, payload, retain=False):
        raise AssertionError("an updater says nothing")

    def subscribe(self, topics):
        self.topics |= set(topics)
        self.asked += topics

    def unsubscribe(self, topics):
        self.topics -= set(topics)

    def hears(self, topic, payload):
        return self.updater.arrived(topic, payload, self.now)

    def gets(self, release, parts=None):
        """The release is published; all (or the named) parts that are asked for arrive."""
        self.hears(*release.message)
        for number, (topic, payload) in enumerate(release.parts.items()):
            if topic in self.topics and (parts is None or number in parts):
                self.hears(topic, payload)

    def checks(self):
        """The preflight comes to its end."""
        assert self.updater.state.startswith("checking"), self.updater.state
        self.calls.get(timeout=30)(self.now)

    @property
    def runs(self):
        return Slots(self.folder / "slots", bundle(SHOULDER)).bundle()[0].manifest.version


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_good_release_is_fetched_checked_and_put_in_front_of_inference(home):
    home.gets(announced(released("1")))
    assert home.updater.state == "checking v1"
    home.checks()
    assert home.updater.state == "installed v1"
    assert home.running == ["1"]
    assert home.runs == "1"
    assert home.told == ["v1"]
    assert not (home.folder / "spool").exists()
    assert home.topics == {TOPICS.release(MODEL)}


def test_a_download_goes_on_after_a_restart_with_the_parts_that_are_missing(home):
    release = announced(released("1"))
    topics = list(release.parts)
    home.gets(release, parts={0, 2, 3})
    home.boot()
    home.asked.clear()
    home.hears(*release.message)
    assert sorted(home.asked) == sorted(set(topics) - {topics[number] for number in (0, 2, 3)})
    for topic in home.asked.copy():
        home.hears(topic, release.parts[topic])
    home.checks()
    assert home.runs == "1"


def test_parts_in_any_order_and_twice_make_the_same_release(home):
    release = announced(released("1"))
    home.hears(*release.message)
    for topic in [*reversed(release.parts), *release.parts]:
        home.hears(topic, release.parts[topic])
    home.checks()
    assert home.running == ["1"]


def test_a_part_of_the_wrong_length_or_taken_off_the_broker_is_no_part(home):
    release = announced(released("1"))
    home.hears(*release.message)
    for topic, payload in release.parts.items():
        home.hears(topic, b"")
        home.hears(topic, payload[:-1])
        home.hears(topic, payload + b"x")
    assert home.updater.state == "fetching v1"
    for topic, payload in release.parts.items():
        home.hears(topic, payload)
    home.checks()
    assert home.runs == "1"


def test_parts_that_do_not_come_are_asked_for_again(home):
    release = announced(released("1"))
    home.gets(release, parts={0})
    home.asked.clear()
    home.updater.wake(home.updater.wake_at)
    assert set(home.asked) == set(release.parts) - {next(iter(release.parts))}


def damaged(release):
    topic = list(release.parts)[1]
    return {**release.parts, topic: release.parts[topic][:-1] + b"?"}


def come(home, parts):
    """The parts that are subscribed come from the broker."""
    for topic, payload in parts.items():
        if topic in home.topics:
            home.hears(topic, payload)


def test_a_release_with_a_part_that_was_damaged_is_installed_once_the_broker_has_it_right(home):
    release = announced(released("1"))
    home.hears(*release.message)
    come(home, damaged(release))
    assert home.updater.state.startswith("fetching v1 again: ")
    assert not home.topics & release.parts.keys()  # not at once
    home.now = home.updater.wake_at
    home.updater.wake(home.now)
    come(home, release.parts)
    home.checks()
    assert home.runs == "1"


def test_parts_that_stay_damaged_are_fetched_ever_more_rarely_and_then_refused(home):
    release = announced(released("1"))
    home.hears(*release.message)
    pauses = []
    while True:
        come(home, damaged(release))
        if home.updater.wake_at is None:
            break
        pauses.append(home.updater.wake_at - home.now)
        home.now = home.updater.wake_at
        home.updater.wake(home.now)
    assert 2 < len(pauses) < 10
    assert pauses == sorted(set(pauses))
    assert home.updater.state.startswith("refused v1: ")
    assert "not the bundle that was signed" in home.updater.state
    assert home.running == []
    assert home.runs == bundle(SHOULDER).manifest.version
    home.boot()
    home.gets(release)  # nothing is wrong with the release itself
    home.checks()
    assert home.runs == "1"


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        (lambda: announced(released("1"), key=1), "bad_signature"),
        (lambda: announced(released("1"), topic=TOPICS.release("other")), "bad_signature"),
        (lambda: announced(released("1"), fleet="another"), "wrong_fleet"),
        (lambda: announced(released("1"), model="other"), "bad_values"),
        (lambda: announced(released("1"), size=1 << 40), "bad_values"),
        (lambda: announced(released("1"), part_size=1), "bad_values"),
    ],
    ids=["other key", "other topic", "other fleet", "other model", "huge", "too many parts"],
)
def test_a_release_that_the_release_key_did_not_sign_for_this_model_is_refused_by_name(home, release, reason):
    home.gets(release())
    assert home.updater.state == f"refused a release: {reason}"
    assert home.topics == {TOPICS.release(MODEL)}
    assert home.running == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_to_the_signed_word_is_refused(home, place, bit, cut):
    topic, payload = announced(released("1")).message
    place %= len(payload)
    damaged = payload[:place] if cut else bytearray(payload)
    if not cut:
        damaged[place] ^= 1 << bit
    if cut and not damaged:
        return
    home.hears(topic, bytes(damaged))
    assert home.updater.state.startswith("refused a release: ")
    assert home.topics == {TOPICS.release(MODEL)}


def test_an_older_release_that_is_said_again_changes_nothing(home):
    home.gets(announced(released("2"), sequence=2))
    home.checks()
    home.gets(announced(released("1"), sequence=1))
    home.boot()
    home.gets(announced(released("1"), sequence=1))
    assert home.calls.empty()
    assert home.runs == "2"


def test_a_newer_release_takes_the_place_of_one_on_its_way(home):
    first, second = announced(released("1"), sequence=1), announced(released("2"), sequence=2)
    home.gets(first, parts={0, 1})
    home.gets(second)
    home.checks()
    assert home.running == ["2"]
    assert not home.topics & first.parts.keys()


def test_a_newer_release_during_the_check_of_the_older_wins(home):
    home.gets(announced(released("1"), sequence=1))
    home.gets(announced(released("2"), sequence=2))
    for _ in range(2):  # in whichever order the two checks end
        home.calls.get(timeout=30)(home.now)
    assert home.running == ["2"]
    assert home.runs == "2"


@pytest.mark.parametrize(
    ("content", "words"),
    [(another_family, "another family"), (lambda: released("1", infer=infer("nan")), "not finite")],
    ids=["family", "nan"],
)
def test_a_release_that_fails_its_check_leaves_what_runs(home, content, words):
    home.gets(announced(released("good"), sequence=1))
    home.checks()
    home.gets(announced(content(), sequence=2))
    home.checks()
    assert words in home.updater.state
    assert home.running == ["good"]
    assert home.runs == "good"


def test_a_release_that_failed_its_check_is_not_fetched_again_after_a_restart(home):
    bad = announced(another_family())
    home.gets(bad)
    home.checks()
    home.boot()
    home.gets(bad)
    assert not home.topics & bad.parts.keys()
    assert home.updater.state.startswith("refused v1: ")
    assert "another family" in home.updater.state
    home.gets(announced(released("2"), sequence=2))
    home.checks()
    assert home.runs == "2"


def test_after_a_refused_release_a_newer_one_is_followed(home):
    home.gets(announced(another_family(), sequence=1))
    home.checks()
    home.gets(announced(released("2"), sequence=2))
    home.checks()
    assert home.runs == "2"


def test_a_release_that_inference_cannot_load_is_not_what_a_restart_begins_with(home):
    home.refuses = True
    home.gets(announced(released("1")))
    home.checks()
    assert "inference cannot run it" in home.updater.state
    assert home.runs == bundle(SHOULDER).manifest.version
    assert home.told == []


def test_when_its_word_cannot_be_written_what_ran_before_runs_again(home):
    home.gets(announced(released("1")))
    (home.folder / "slots" / "current.json").mkdir(parents=True)  # nothing can take the place of a folder
    (home.folder / "slots" / "current.json" / "x").touch()
    home.checks()
    assert home.running == ["1", bundle(SHOULDER).manifest.version]
    assert "cannot be written" in home.updater.state
    assert home.told == []


def test_a_release_taken_off_the_broker_leaves_what_runs(home):
    home.gets(announced(released("1")))
    home.checks()
    home.hears(TOPICS.release(MODEL), b"")
    assert home.updater.state == "installed v1"


def test_messages_of_others_are_left_to_them(home):
    assert not home.hears(TOPICS.round, b"offer")
    assert home.hears(TOPICS.release(MODEL), b"garbage")
