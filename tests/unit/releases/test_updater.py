"""A device follows a real repository: what it takes, and what it rolls back."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from marram.config.schema import Releases, Trial
from marram.releases.machine import Misbehaved
from marram.releases.talk import Outcome
from marram.stream.blocks import UNLABELLED
from marram.wire import patch
from marram_cloud.enrolment import authority

from tests.support.fleet_repository import Repository
from tests.support.identities import fleet
from tests.support.releases import infer, released, spoilt
from tests.support.updates import Rig, rig
from tests.support.windows import shoulder_windows


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "fleet")


def test_a_good_release_is_fetched_tried_and_committed_over_mqtt(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("committed")
        assert device.running == "shoulder/1.marram"
        assert device.inference.model.name == "shoulder 1"
        device.until("the report", lambda: device.link.reports[-1].stage == "committed")
        stages = [report.stage for report in device.link.reports]
        order = ["idle", "fetching", "verified", "preflighted", "trial", "committed"]
        assert [stage for stage in order if stage in stages] == order
        assert device.link.reports[-1].running == "shoulder/1.marram"
        device.until("confirmed", lambda: bool(device.installation.machine.running.confirmed))
        assert device.inference.failed == 0
        assert device.inference.fallback is None


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """(a web server's side, the file of the authority that issued its certificate)."""
    key = authority.new_key()
    certificate = fleet().issue_server(("127.0.0.1",), key.public_key())
    pair, file = tmp_path / "server.pem", tmp_path / "ca.crt"
    pair.write_bytes(authority.private_pem(key) + certificate.public_bytes(Encoding.PEM))
    file.write_bytes(fleet().certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    return context, file


def test_over_https(repository: Repository, tmp_path: Path, tls: tuple[ssl.SSLContext, Path]) -> None:
    repository.release(released("1"), "1")
    with repository.served(tls[0]) as server:
        settings = Releases(url=server.url, trial=Trial(windows=40, confirm=60))
        options = {"releases": settings, "over_mqtt": False}
        with rig(tmp_path / "stranger", repository, **options) as device:
            device.until("the reason", lambda: "CERTIFICATE_VERIFY_FAILED" in device.updater.problem)
        with rig(tmp_path / "device", repository, authority=tls[1], **options) as device:
            device.until_stage("committed")
            assert not device.link.fetches
    assert device.running == "shoulder/1.marram"
    assert any(wanted for path, wanted in server.asked), "no ranges were asked for"


BAD = {
    "nan": (released("1", infer=infer("nan")), "NaN"),
    "hungry": (released("1", infer=infer("hungry")), "memory"),
    "zeros": (released("1", infer=infer("fine")), "agrees"),
}


@pytest.mark.parametrize(("content", "why"), BAD.values(), ids=BAD)
def test_a_bad_release_is_rolled_back_for_its_reason(
    repository: Repository, tmp_path: Path, content: bytes, why: str
) -> None:
    repository.release(content, "1")
    windows = shoulder_windows(1)
    # With labels, a model that always says the same would be right for as long as that exercise lasts.
    unlabelled = replace(windows, labels=np.full(len(windows), UNLABELLED, np.int16))
    with rig(tmp_path / "device", repository, windows=unlabelled) as device:
        reason = device.until_stage("rolled_back")
        assert why in reason
        assert device.running == ""
        assert device.inference.model.name == "shoulder 0"
        assert device.inference.failed == 0
        # It is never fetched again.
        before = len(device.link.fetches)
        device.check()
        device.until("the look", lambda: "refused here before" in device.updater.problem)
        assert all("/targets/shoulder" not in one.file for one in device.link.fetches[before:])


def test_the_next_good_release_after_a_bad_one_is_taken(repository: Repository, tmp_path: Path) -> None:
    repository.release(BAD["nan"][0], "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("rolled_back")
        repository.release(released("2"), "2")
        device.check()
        device.until_stage("committed")
    assert device.running == "shoulder/2.marram"


def test_what_is_revoked_goes_back_to_what_ran_before(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        for version in ("1", "2"):
            if version == "2":
                repository.release(released("2"), "2")
                device.check()
            device.until("committed", lambda v=version: device.running == f"shoulder/{v}.marram")
            device.until("confirmed", lambda: bool(device.installation.machine.running.confirmed))
        repository.revoke("2")
        device.check()
        device.until("version 1", lambda: device.running == "shoulder/1.marram")
        device.until("the reason", lambda: any("revoked" in one.reason for one in device.link.reports))
        device.until("the report", lambda: device.link.reports[-1].running == "shoulder/1.marram")
        assert device.inference.model.name == "shoulder 1"


def confirmed(device: Rig, version: str) -> None:
    device.check()
    device.until("committed", lambda: device.running == f"shoulder/{version}.marram")
    device.until("confirmed", lambda: bool(device.installation.machine.running.confirmed))


def misbehaves(device: Rig) -> None:
    device.until("the end of a look", lambda: device.updater.look.pid is None)
    device.loop.post(lambda now: device.updater._tell(Misbehaved("fails in the daemon"), now))


def test_when_the_release_that_failed_here_is_revoked_an_older_one_may_come(
    repository: Repository, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        repository.release(released(version), version)
    with rig(tmp_path / "device", repository) as device:
        confirmed(device, "2")
        misbehaves(device)
        device.until("the configured bundle", lambda: device.running == "")
        repository.revoke("2")
        confirmed(device, "1")


def test_when_what_it_goes_back_to_is_damaged_the_configured_bundle_runs_and_is_reported(
    repository: Repository, tmp_path: Path
) -> None:
    with rig(tmp_path / "device", repository) as device:
        for version in ("1", "2"):
            repository.release(released(version), version)
            confirmed(device, version)
        (tmp_path / "device" / "releases" / "a").write_bytes(b"bits fell over")
        misbehaves(device)
        device.until("the report", lambda: device.link.reports[-1].running == "")
        assert device.running == ""
        assert device.inference.model.name == "shoulder 0"
        told = [(one.candidate, one.reason) for one in device.link.reports if one.stage == "rolled_back"]
        assert ("shoulder/2.marram", "fails in the daemon") in told


def test_a_repository_that_was_away_for_months_is_still_asked_at_the_longest_pause(
    repository: Repository, tmp_path: Path
) -> None:
    device = Rig(tmp_path / "device", repository)
    for _ in range(1200):
        device.updater._looked(Outcome(error="no network"), 1000.0)
    every = device.updater.settings.every
    assert 1000.0 + every / 2 <= device.updater._next_look <= 1000.0 + every * 1.5


def test_what_is_revoked_is_left_before_it_is_confirmed_even_without_a_window(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    settings = Releases(spread=0.0, trial=Trial(windows=40, confirm=1_000_000))
    with rig(tmp_path / "device", repository, releases=settings) as device:
        device.until_stage("committed")
        repository.release(released("2"), "2")
        device.check()
        device.until("a look", lambda: device.updater.look.pid is not None)
        device.until("its end", lambda: device.updater.look.pid is None)
        assert device.told[0] == "committed"  # one change at a time
        repository.revoke("1")
        device.check()
        device.until("the configured bundle", lambda: device.running == "", feed=False)


def test_only_what_changed_is_fetched(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("committed")
        device.until("confirmed", lambda: bool(device.installation.machine.running.confirmed))
    assert device.link.bytes_in < len(released("1")) / 2


def test_a_held_device_changes_nothing_until_it_may(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    device = Rig(tmp_path / "device", repository)
    device.hold.set("stock-taking")
    device.start()
    try:
        device.until("windows", lambda: device.inference.predicted > 200)
        assert device.told[0] == "idle"
        device.hold.lift()
        device.until_stage("committed")
    finally:
        device.stop()


def test_after_a_restart_the_committed_release_runs(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        device.until_stage("committed")
    again = device.again()
    try:
        assert again.inference.model.name == "shoulder 1"
        again.until("confirmed", lambda: bool(again.installation.machine.running.confirmed))
    finally:
        again.stop()


def test_a_patch_of_the_release_that_runs_is_taken_where_there_is_one(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        confirmed(device, "1")
        before = device.link.bytes_in
        changed = released("2", infer=spoilt("trap"))
        repository.release(changed, "2")
        confirmed(device, "2")
        asked = [one.file for one in device.link.fetches]
        assert any("2.marram.from-" in file for file in asked)
        assert not any(file.endswith((".2.marram", ".2.marram.pieces")) for file in asked)
        assert device.link.bytes_in - before < len(changed) / 2


def test_a_patch_that_leads_elsewhere_is_no_harm(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        confirmed(device, "1")
        make = patch.make
        monkeypatch.setattr(patch, "make", lambda base, new: make(base, new[:-1] + b"?"))
        repository.release(released("2"), "2")
        confirmed(device, "2")
        assert any(one.file.endswith(".2.marram.pieces") for one in device.link.fetches)


def test_other_settings_hold_for_what_waits_already(repository: Repository, tmp_path: Path) -> None:
    """As after `marram reload`: a release that the hours held back is taken once they do not any more."""
    repository.release(released("1"), "1")
    closed = Releases(spread=0.0, hours=("01:00-02:00",), trial=Trial(windows=40, confirm=60))
    with rig(tmp_path / "device", repository, releases=closed) as device:
        updater = device.updater
        device.until("the announcement", lambda: updater._news is not None)
        device.until("a look that does not come", lambda: updater.wake_at > device.clock())
        assert (updater.look.pid, device.told[0]) == (None, "idle")
        opened = Releases(spread=0.0, deadline=77.0, trial=Trial(windows=30, confirm=60, agreement=0.5))
        device.loop.post(lambda now: updater.settle(opened, updater.at, device.inference, now))
        device.until_stage("committed")
        assert (updater.trying.live, updater.trying.limits.agreement) == (30, 0.5)
        assert device.installation.machine.deadlines.fetching == 77.0
