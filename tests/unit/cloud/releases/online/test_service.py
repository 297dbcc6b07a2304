"""The online service over a real repository: what it says, what it keeps, when it steps in."""

from datetime import UTC, datetime

import pytest
from marram.errors import WireError
from marram.storage import open_database
from marram.wire import cbor
from marram.wire.messages import Block, Fetch, Report
from marram_cloud.releases.online import reports as reported
from marram_cloud.releases.online.reports import Reports, open_reports
from marram_cloud.releases.online.service import ReleaseService
from marram_cloud.releases.rollout.audience import Audience
from marram_cloud.releases.rollout.controller import Limits
from marram_cloud.releases.rollout.store import RolloutStore, read
from marram_cloud.releases.status import as_text, look

from tests.support.aggregator import TOPICS
from tests.support.repository import MODEL, Repository

TARGET = f"{MODEL}/1.onnx"


class Scene:
    def __init__(self, folder):
        self.repository = Repository(folder)
        self.repository.released("1", b"one")
        self.now = self.repository.now.timestamp()
        self.store = RolloutStore(self.repository.online)
        self.sent = []
        self.reports = open_reports(folder)
        self.start()

    def start(self):
        self.service = ReleaseService(
            self.store, self.reports, TOPICS, Limits(), lambda *message: self.sent.append(message)
        )
        self.service.connected(self.now)

    def promote(self, to, version="1", **more):
        self.store.change(
            MODEL, version, None, self.now,
            lambda document, release: document.promoted(release, Audience.parse(to), self.now, **more),
        )  # fmt: skip

    def waits(self, seconds):
        self.now += seconds
        self.service.look(self.now)

    def says(self, device, stage, counter=1, candidate=TARGET, reason=""):
        report = Report(
            "0", MODEL, candidate if stage == "committed" else "", "", b"d" * 32, stage, candidate, reason
        )
        self.service.take_report(device, report, counter, self.now)

    def online(self, *devices):
        for device in devices:
            self.service.presence(device, True)

    @property
    def document(self):
        layout = self.repository.layout
        return read(layout, layout.load(), MODEL)

    @property
    def plan(self):
        return self.document.plan(TARGET)

    def timestamps(self):
        return [payload for topic, payload, retain in self.sent if topic == TOPICS.timestamp and retain]

    @property
    def status(self):
        return look(self.repository.layout, self.reports, ["a", "z"], datetime.fromtimestamp(self.now, UTC))


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.reports.database.close()


def on_disk(scene):
    return (scene.repository.path / "metadata" / "timestamp.json").read_bytes()


def test_the_timestamp_is_published_once_for_each_change(scene):
    assert scene.timestamps() == [on_disk(scene)]
    scene.waits(5)
    assert len(scene.timestamps()) == 1
    scene.promote("5%")
    scene.waits(1)
    assert len(scene.timestamps()) == 2
    assert scene.timestamps()[-1] == on_disk(scene)
    scene.service.connected(scene.now)
    assert len(scene.timestamps()) == 3


def test_metadata_never_expires_while_it_runs(scene):
    for _ in range(40):
        scene.waits(6 * 3600)
        state = scene.repository.layout.load()
        for metadata in (state.timestamp, state.snapshot, state.roles["rollout"]):
            assert metadata.signed.expires.timestamp() > scene.now + 6 * 3600
    assert scene.timestamps()[-1] == on_disk(scene)


def test_a_bad_release_is_paused_with_its_reasons(scene):
    scene.promote("all")
    scene.online("a", "b", "c", "d")
    scene.waits(1)
    scene.says("a", "rolled_back", reason="NaN in the trial")
    scene.waits(1)
    assert not scene.plan.paused
    scene.says("b", "rolled_back", reason="NaN in the trial")
    scene.waits(1)
    assert scene.plan.paused
    assert scene.timestamps()[-1] == on_disk(scene)
    shown = as_text(scene.status)
    assert "PAUSED: 2 of 2 devices that finished went back: 2 x NaN in the trial" in shown
    assert "rolled back 2" in shown


def test_stages_follow_each_other_after_their_soak(scene):
    scene.promote("device:a", then=("all",), soak=600)
    scene.online("a", "b")
    scene.waits(1)
    scene.says("a", "committed")
    scene.waits(590)
    assert scene.plan.share == 0
    scene.waits(30)
    assert scene.plan.share == 1
    assert scene.document.schedules[TARGET].then == ()


def test_a_short_soak_is_no_longer_than_it_says(scene):
    scene.promote("device:a", then=("all",), soak=3)
    scene.online("a", "b")
    scene.says("a", "committed")
    scene.waits(2)
    assert scene.plan.share == 0
    scene.waits(2)
    assert scene.plan.share == 1


def test_the_service_forgets_nothing_over_a_restart(scene):
    scene.promote("device:a", then=("all",), soak=600)
    scene.online("a")
    scene.says("a", "committed")
    scene.start()
    scene.online("a")
    scene.waits(601)
    assert scene.plan.share == 1


def test_a_report_that_is_older_or_comes_twice_changes_nothing(scene):
    scene.says("a", "committed", counter=5)
    scene.now += 100
    scene.says("a", "trial", counter=4)
    scene.says("a", "rolled_back", counter=5)
    (outcome,) = scene.reports.outcomes(TARGET).values()
    assert outcome.stage == "committed"
    assert outcome.changed == scene.now - 100


def test_what_is_said_of_releases_that_nobody_signed_fills_nothing(scene):
    for number in range(20):
        scene.says("a", "trial", counter=number + 1, candidate=f"made/up-{number}.onnx")
    rows = scene.reports.database.execute("SELECT count(*) FROM outcomes").fetchone()
    assert rows == (0,)
    assert list(scene.reports.heard()) == ["a"]


def test_an_outcome_stays_when_a_device_goes_on_to_another_release(scene):
    scene.repository.released("2", b"two")
    scene.waits(1)
    scene.says("a", "rolled_back", 1)
    scene.says("a", "committed", 2, candidate=f"{MODEL}/2.onnx")
    assert scene.reports.outcomes(TARGET)["a"].stage == "rolled_back"
    one, two = reversed(scene.status.models[MODEL])
    assert (one.rolled_back, one.running, two.committed, two.running) == (1, 0, 1, 1)


def test_the_status_names_devices_that_nobody_heard_of(scene):
    scene.says("a", "committed")
    assert scene.status.not_heard == ("z",)
    assert "no report yet of 1 devices: z" in as_text(scene.status)


def test_an_operator_who_was_quicker_wins(scene):
    scene.promote("all")
    scene.online("a", "b")
    scene.waits(1)
    scene.says("a", "rolled_back")
    scene.says("b", "rolled_back")
    # Between what the service read and what it writes.
    scene.store.change(
        MODEL, "1", None, scene.now, lambda document, release: document.resumed(release.path, scene.now + 50)
    )
    scene.service._steer(scene.now + 1)
    assert not scene.plan.paused


def test_a_broken_repository_stops_nothing_and_is_tried_again(scene):
    timestamp = scene.repository.path / "metadata" / "timestamp.json"
    content = timestamp.read_bytes()
    timestamp.write_bytes(b"garbage")
    scene.waits(1)
    timestamp.write_bytes(content)
    scene.promote("5%")
    scene.waits(10)
    assert len(scene.timestamps()) == 1
    scene.waits(60)
    assert scene.timestamps()[-1] == on_disk(scene)


def test_a_report_that_cannot_be_kept_holds_nothing_up(scene):
    scene.reports.database.execute("DROP TABLE outcomes")
    scene.says("a", "committed")


def test_a_fetch_is_answered_on_the_devices_own_topic(scene):
    request = Fetch(7, "metadata/timestamp.json", 256, 0, b"\xff", 4096)
    scene.sent.clear()
    scene.service.fetch("a", cbor.pack(request))
    assert scene.service.serve(1 << 20) is False
    content = b"".join(cbor.unpack(payload, Block).data for _, payload, _ in scene.sent)
    assert content == on_disk(scene)[:2048]
    assert {(topic, retain) for topic, _, retain in scene.sent} == {(TOPICS.down("a", "block"), False)}


def test_no_more_goes_out_than_there_is_room_for(scene):
    scene.repository.released("2", b"x" * 100_000)
    (path,) = scene.repository.path.glob("targets/*/*.2.onnx")
    file = str(path.relative_to(scene.repository.path))
    scene.service.fetch("a", cbor.pack(Fetch(1, file, 1000, 0, b"\xff" * 8, 1000)))
    scene.sent.clear()
    assert scene.service.serve(3000)
    assert len(scene.sent) == 3
    assert scene.service.serve(0)
    assert len(scene.sent) == 3


def test_a_fetch_of_nothing_says_so_at_once(scene):
    scene.sent.clear()
    scene.service.fetch("a", cbor.pack(Fetch(7, "metadata/99.root.json", 256, 0, b"\1", 4096)))
    ((_, payload, _),) = scene.sent
    assert cbor.unpack(payload, Block) == Block(7, 0, 0, b"", missing=True)
    with pytest.raises(WireError):
        scene.service.fetch("a", b"garbage")


def test_reports_are_read_by_another_process_while_they_are_written(scene, tmp_path):
    other = Reports(open_database(tmp_path / "reports.db", reported.SCHEMA))
    scene.says("a", "committed")
    assert other.outcomes(TARGET)["a"].stage == "committed"
    other.database.close()
