"""A certificate is renewed in time, as a whole or not at all, and with it all that the device proves."""

import queue
import random
import shutil
import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from marram.enrolment.renewal import Renewal, first_attempt, next_attempt
from marram.link import identity as identities
from marram.link.identity import load
from marram.link.keys import file
from marram.wire import certificates
from marram_cloud.enrolment import authority

from tests.support.cuts import cut_everywhere
from tests.support.est import EstServer, issue
from tests.support.identities import fleet, stranger
from tests.support.sampled import drawn

DAY = 86400.0
MINUTES = timedelta(minutes=10)
moments = st.floats(0, 4e9)
fractions = st.floats(0, 1)


def fixed(part):
    return lambda low, high: low + (high - low) * part


class Posted:
    """A loop whose calls the test makes itself."""

    def __init__(self):
        self.calls = queue.Queue()

    def post(self, call):
        self.calls.put(call)

    def run_one(self, now):
        self.calls.get(timeout=20)(now)


def write_identity(folder, start=timedelta(days=-60), end=timedelta(days=30)):
    """An identity of these times, as ``marram-cloud enrol`` would write it."""
    folder.mkdir(parents=True)
    key = authority.new_key()
    certificate = issue(fleet(), "device-1", key.public_key(), start, end)
    authority.write_private(folder / "device.key", authority.private_pem(key))
    (folder / "device.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "ca.crt").write_bytes(fleet().certificate.public_bytes(Encoding.PEM))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_identity(tmp_path / "identity")


@pytest.fixture
def server():
    with EstServer(fleet()) as one:
        yield one


class Renewing:
    """A renewal on its own. now: the device's time, by default within the old certificate."""

    def __init__(self, folder, url, key=None):
        self.loop, self.heard = Posted(), []
        identity = load(folder, key=key)
        self.now = identity.expires - 10 * DAY
        self.renewal = Renewal(identity, url, self.loop, self.heard.append, self.now, fixed(0.5))

    def attempt(self):
        self.renewal.wake(self.now)
        assert self.renewal.wake_at is None, "one attempt at a time"
        self.loop.run_one(self.now)


# ---- when


@given(start=moments, life=st.floats(1, 4e8), now=moments, part=fractions)
def test_the_first_attempt_comes_at_two_thirds_or_soon_but_never_needlessly_late(start, life, now, part):
    end = start + life
    due = first_attempt(start, end, now, fixed(part))
    if now < start + life * 2 / 3:
        assert start + life * 0.66 <= due <= start + life * 0.72
    assert due >= now
    if now < start + life * 2 / 3 or now > end:
        return
    assert due <= max(now + 600, start + life * 0.72)


@given(life=st.floats(600, 4e8), part=st.floats(0, 0.999), spread=fractions)
def test_after_a_failure_there_is_time_for_many_more(life, part, spread):
    end, now = 1e9 + life, 1e9 + life * part
    attempts = 0
    while now < end and attempts < 10:
        later = next_attempt(end, now, fixed(spread))
        assert later > now
        attempts, now = attempts + 1, later
    assert attempts == 10 or end - (1e9 + life * part) < 120


def test_a_fleet_made_on_one_day_does_not_renew_in_one_minute():
    due = [first_attempt(0, 90 * DAY, 30 * DAY, random.Random(seed).uniform) for seed in range(200)]
    assert max(due) - min(due) > 4 * DAY
    back = [first_attempt(0, 90 * DAY, 80 * DAY, random.Random(seed).uniform) for seed in range(200)]
    assert max(back) - min(back) > 500


# ---- what


def test_key_and_certificate_are_new_and_the_old_key_is_gone(folder, server):
    before, old_key = load(folder), (folder / "device.key").read_bytes()
    renewing = Renewing(folder, server.url)
    renewing.attempt()
    after = load(folder)
    assert after.certificate == server.issued[0] == renewing.heard[0].certificate
    assert after.subject == before.subject
    assert after.expires > before.expires
    assert after.signer.key_id != before.signer.key_id
    assert (folder / "device.key").stat().st_mode & 0o777 == 0o600
    assert all(old_key not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert renewing.renewal.error == ""
    now, end = renewing.now, after.expires
    assert now + (end - now) * 0.66 < renewing.renewal.wake_at < end

    renewing.attempt()
    assert load(folder).certificate == server.issued[1]
    assert len(list((folder / "generations").iterdir())) == 1


def test_the_renewed_certificate_renews_itself_by_tls(folder, server):
    renewing = Renewing(folder, server.url)
    renewing.attempt()
    first = renewing.heard[0]
    assert first.tls().verify_mode == ssl.CERT_REQUIRED
    renewing.attempt()
    assert renewing.heard[1].certificate == server.issued[1]
    assert server.issued[1] != server.issued[0]


def test_a_credentials_key_stays_and_only_the_certificate_is_new(folder, server, tmp_path, monkeypatch):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (folder / "device.key").rename(credentials / "marram.key")
    (credentials / "marram.key").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    before = load(folder, key="credential:marram.key")
    Renewing(folder, server.url, "credential:marram.key").attempt()
    after = load(folder, key="credential:marram.key")
    assert after.certificate == server.issued[0]
    assert after.certificate.public_key() == before.certificate.public_key()
    assert not (folder / "device.key").exists()


def test_what_the_author_seals_after_it_is_of_the_new_certificate(folder, server):
    author = load(folder).author()
    shared = author
    renewing = Renewing(folder, server.url)
    renewing.attempt()
    own = renewing.heard[0].author()
    author.renew(own.signer, own.chain)
    assert shared.signer.key_id == certificates.key_id(server.issued[0])
    assert shared.chain == (certificates.der(server.issued[0]),)


# ---- what goes wrong


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unavailable", "503 busy"),
        ("lost", "does not answer"),
        ("garbage", "is it an EST server"),
        ("other key", "for another key"),
        ("stranger", "of another authority"),
        ("other name", "not of the device 'device-1'"),
    ],
)
def test_an_attempt_that_fails_changes_nothing_and_is_made_again(folder, server, fault, words):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    renewing = Renewing(folder, server.url)
    server.faults = [fault]
    renewing.attempt()
    assert words in renewing.renewal.error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert renewing.heard == []
    assert renewing.now < renewing.renewal.wake_at <= renewing.now + 6 * 3600
    renewing.attempt()
    assert renewing.renewal.error == ""
    assert load(folder).certificate == server.issued[-1]


def test_a_server_of_another_fleet_is_shown_no_certificate(folder):
    with EstServer(stranger()) as other:
        renewing = Renewing(folder, other.url)
        renewing.attempt()
    assert "cannot be believed" in renewing.renewal.error
    assert other.requests == []


def test_after_its_end_it_says_what_to_do_and_looks_whether_the_clock_was_wrong(folder, server):
    renewing = Renewing(folder, server.url)
    late = renewing.renewal.identity.expires + 1
    renewing.renewal.wake(late)
    assert "run `marram enrol` with a new token" in renewing.renewal.error
    assert server.requests == []
    assert renewing.renewal.wake_at == late + 3600
    renewing.attempt()
    assert renewing.renewal.error == ""


def test_without_a_server_nothing_is_planned(folder):
    assert Renewing(folder, "").renewal.wake_at is None


def test_a_folder_that_cannot_be_written_is_said_and_the_old_pair_stays(folder, server, monkeypatch):
    renewing = Renewing(folder, server.url)
    (folder / "generations").write_text("in the way")
    renewing.attempt()
    assert "generations" in renewing.renewal.error
    assert load(folder).certificate == renewing.renewal.identity.certificate


@pytest.mark.parametrize("renewal", drawn(["first", "second"], 1))
def test_a_power_cut_anywhere_leaves_the_old_pair_or_the_new_one(folder, tmp_path, renewal):
    if renewal == "second":
        key = file.generate()
        identities.renew(load(folder), issue(fleet(), "device-1", key.public_key(), -MINUTES, MINUTES), key)
    key = file.generate()
    new = issue(fleet(), "device-1", key.public_key(), -MINUTES, MINUTES)
    old, place = load(folder).certificate, tmp_path / "device"

    def begin():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place, symlinks=True)
        identity = load(place)
        return lambda: identities.renew(identity, new, key)

    seen = []
    for _ in cut_everywhere(begin):
        found = load(place)
        seen.append(found.certificate)
        # And the next attempt gets to its end whatever was left lying about.
        identities.renew(replace(found, folder=place), new, key)
        assert load(place).certificate == new
        assert len(list((place / "generations").iterdir())) == 1
    assert seen == sorted(seen, key=lambda one: one == new)
    assert {one.serial_number for one in seen} == {old.serial_number, new.serial_number}
