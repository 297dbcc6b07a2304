"""A model's roll-out through everything that an operator does to it."""

import pytest
from marram_cloud.releases.repository.targets import Release
from marram_cloud.releases.rollout.audience import Audience, RolloutError, describe, read_soak
from marram_cloud.releases.rollout.document import Document, Schedule

NAMES = [f"device-{number}" for number in range(2000)]


def release(number):
    digest = f"{number:x}" * 64
    return Release(f"m/{number}.onnx", str(number), "onnx", number, digest[:64], 10)


ONE, TWO = release(1), release(2)


def promoted(document, to, what=ONE, now=100.0, **more):
    return document.promoted(what, Audience.parse(to), now, **more)


@pytest.fixture
def empty():
    return Document.empty("m")


def reached(document, tags=(), running=""):
    found = {}
    for name in NAMES:
        plan = document.rollout.assigned(name, tags, running)
        found.setdefault(plan.target if plan else None, set()).add(name)
    return found


def test_a_larger_share_holds_the_devices_of_a_smaller_one(empty):
    small = reached(promoted(empty, "5%"))[ONE.path]
    large = reached(promoted(promoted(empty, "5%"), "25%"))[ONE.path]
    assert small < large
    assert 60 < len(small) < 140
    assert reached(promoted(empty, "all")) == {ONE.path: set(NAMES)}


def test_two_releases_begin_with_different_devices(empty):
    first, second = (reached(promoted(empty, "10%", what))[what.path] for what in (ONE, TWO))
    assert len(first & second) < len(first) / 2


def test_groups_and_devices_are_added_to_the_share(empty):
    document = promoted(promoted(promoted(empty, "5%"), "group:canary"), "device:device-7")
    plan = document.plan(ONE.path)
    assert describe(plan) == "5%, group:canary, device:device-7"
    assert plan.includes("nobody-hashed-so", ("canary",))
    assert plan.includes("device-7", ())
    assert promoted(document, "group:canary").plan(ONE.path) == plan


def test_it_only_widens_unless_told(empty):
    document = promoted(promoted(empty, "50%"), "device:a")
    with pytest.raises(RolloutError, match="50% already"):
        promoted(document, "10%")
    assert describe(promoted(document, "10%", narrow=True).plan(ONE.path)) == "10%"


def test_the_newest_release_goes_first_and_the_older_one_stays_for_the_rest(empty):
    document = promoted(promoted(empty, "all"), "5%", TWO)
    found = reached(document)
    assert 60 < len(found[TWO.path]) < 140
    assert found[ONE.path] == set(NAMES) - found[TWO.path]


def test_a_pause_lets_nobody_begin_and_sends_nobody_back(empty):
    document = promoted(promoted(empty, "all"), "all", TWO).paused(TWO.path, "by hand")
    assert reached(document) == {ONE.path: set(NAMES)}
    assert reached(document, running=TWO.sha256) == {TWO.path: set(NAMES)}
    assert document.schedules[TWO.path].paused == "by hand"
    resumed = document.resumed(TWO.path, 500.0)
    assert reached(resumed) == {TWO.path: set(NAMES)}
    assert resumed.schedules[TWO.path] == Schedule(500_000)


def test_a_revoked_release_runs_nowhere_and_cannot_be_promoted(empty):
    document = promoted(promoted(empty, "all"), "all", TWO).revoked(TWO.sha256)
    assert reached(document, running=TWO.sha256) == {ONE.path: set(NAMES)}
    assert document.revoked(TWO.sha256) == document
    with pytest.raises(RolloutError, match="was revoked"):
        promoted(document, "all", TWO)


def test_stages_come_one_after_the_other(empty):
    document = promoted(empty, "5%", then=("25%", "group:night", "all"), soak=60)
    shares = []
    while document.schedules[ONE.path].then:
        document = document.advanced(ONE.path, 200.0)
        shares.append(describe(document.plan(ONE.path)))
    assert shares == ["25%", "25%, group:night", "all, group:night"]
    assert document.schedules[ONE.path].began == 200_000


@pytest.mark.parametrize("then", [("5%",), ("50%", "25%"), ("all", "all"), ("sometimes",)])
def test_stages_that_do_not_widen_are_refused(empty, then):
    with pytest.raises(RolloutError):
        promoted(empty, "10%", then=then)


@pytest.mark.parametrize("text", ["", "0%", "101%", "-5%", "5", "canary", "group:", "device:", "5 %", "all "])
def test_an_audience_that_is_none_is_refused(text):
    with pytest.raises(RolloutError, match=r"expected 5%"):
        Audience.parse(text)


def test_what_is_not_rolled_out_can_neither_be_paused_nor_resumed(empty):
    for change in (lambda: empty.paused("m/1.onnx", ""), lambda: empty.resumed("m/1.onnx", 0.0)):
        with pytest.raises(RolloutError, match="release promote"):
            change()


def test_old_plans_are_forgotten_with_their_schedules(empty):
    for number in range(1, 40):
        empty = promoted(empty, "all", Release(f"m/{number}.onnx", "", "onnx", number, f"{number:064}", 1))
    assert len(empty.rollout.plans) == len(empty.schedules) == 16
    assert empty.rollout.plans[0].target == "m/39.onnx"


def test_a_soak_is_a_duration():
    assert read_soak("1h") == 3600
    with pytest.raises(RolloutError, match="no duration"):
        read_soak("long")
