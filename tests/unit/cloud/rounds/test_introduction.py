"""Devices are known by their report, until their certificates end or are revoked."""

import dataclasses

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.wire import certificates, envelope, reasons
from marram.wire.certificates import Subject
from marram.wire.messages import Receipt, Report
from marram.wire.revocation import read
from marram.wire.signed import Author
from marram_cloud.enrolment import authority, revocations

from tests.support.aggregator import TOPICS
from tests.support.identities import author, author_of, certified, fleet, stranger
from tests.support.service import Region

REPORT = Report("1.0", "model", "", "0", b"d" * 32, "idle")
DAY = 86400.0


@pytest.fixture
def region():
    return Region(devices=2)


def issued(subject, issuer=None, days=90.0, key=None):
    key = key or authority.new_key()
    return author_of((issuer or fleet()).issue(subject, key.public_key(), days), key)


def device(name="device-3", **more):
    return issued(Subject("fleet", "region", "device", name), **more)


def report(who, name=None, topic=None, counter=1, message=REPORT, introduce=True):
    topic = topic or TOPICS.report(name or who.subject.name)
    return who.seal(message, topic, counter, introduce=introduce)


def hears(region, sealed, name="device-3"):
    region.service.take([(TOPICS.report(name), sealed)], region.now)


def certificate_of(who):
    return x509.load_der_x509_certificate(who.chain[0])


def revoked(serials, number):
    content = revocations.make(fleet(), [(serial, 0.0) for serial in serials], number, Region().now)
    return read(content, fleet().certificate)


# ---- becoming known


def test_a_device_is_known_once_it_has_shown_its_certificate(region):
    who = device()
    region.hears(region.delta("device-3", who=who), "device-3")
    assert region.refusals("device-3") == [reasons.UNKNOWN_DEVICE]
    hears(region, report(who))
    sealed = region.delta("device-3", who=who)
    region.hears(sealed, "device-3")
    assert region.receipts("device-3") == [envelope.digest(sealed)]
    assert "device-3" in [name for name, _, _ in region.ledger.devices()]


def test_deltas_under_the_old_and_the_new_certificate_count_while_both_are_good(region):
    old, new = device(), device()
    hears(region, report(old))
    hears(region, report(new))
    first = region.delta("device-3", who=old)
    region.hears(first, "device-3")
    region.hears(region.delta("device-1"), "device-1")
    region.waits(1.0)
    second = region.delta("device-3", who=new)
    region.hears(second, "device-3")
    assert region.receipts("device-3") == [envelope.digest(first), envelope.digest(second)]


def test_a_counter_counts_for_the_device_and_not_for_its_certificate(region):
    old, new = device(), device()
    hears(region, report(old))
    hears(region, report(new))
    region.hears(region.delta("device-3", who=old, counter=1000), "device-3")
    region.hears(region.delta("device-1"), "device-1")
    region.waits(1.0)
    region.hears(region.delta("device-3", who=new, counter=1000, vector=np.ones(24, np.float32)), "device-3")
    assert region.refusals("device-3") == [reasons.REPLAYED]


def test_a_report_is_handed_on_with_its_counter_and_an_empty_one_is_nothing(region):
    heard = []
    region.service.reported = lambda *args: heard.append(args)
    hears(region, report(device(), counter=77))
    hears(region, b"")
    assert heard == [("device-3", REPORT, 77, region.now)]
    assert region.ledger.refusals() == {}


def test_a_report_that_comes_again_changes_nothing(region):
    sealed = report(device())
    for _ in range(3):
        hears(region, sealed)
    assert len(region.ledger.certificates_of("device-3")) == 1


def test_a_device_whose_state_came_before_its_report_is_waited_for(region):
    region.online("device-1", "device-2", "device-3")
    hears(region, report(device()))
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(5.0)
    assert region.ledger.current_round().number == 0
    region.service.take([(TOPICS.state("device-3"), b"")], region.now)
    region.waits(region.rules.grace)
    assert region.ledger.current_round().number == 1


def test_strangers_without_end_cost_no_memory_without_end(region):
    for number in range(6000):
        region.online(f"stranger-{number}")
    assert len(region.service._strangers) <= 4096


# ---- staying unknown


def hostile():
    """(case, reason, sealed report below device-3)"""
    key = authority.new_key()
    good, other = device(), device("device-4")
    yield "another fleet's authority", reasons.UNKNOWN_DEVICE, report(device(issuer=stranger()))
    yield "ended", reasons.EXPIRED, report(device(days=1e-6))
    south = issued(Subject("fleet", "south", "device", "device-3"))
    yield "region", reasons.WRONG_SENDER, report(south, "device-3")
    elsewhere = issued(Subject("hills", "region", "device", "device-3"))
    yield "fleet in the header", reasons.WRONG_FLEET, report(elsewhere, "device-3")
    posing = dataclasses.replace(elsewhere, subject=good.subject)
    yield "fleet in the certificate", reasons.WRONG_SENDER, report(posing, "device-3")
    yield "role", reasons.WRONG_SENDER, report(author("aggregator", "aggregator"), "device-3")
    yield "under another's topic", reasons.WRONG_SENDER, report(other, "device-3")
    yield "as another", reasons.WRONG_SENDER, report(dataclasses.replace(other, subject=good.subject))
    yield "moved", reasons.BAD_SIGNATURE, report(good, topic=TOPICS.report("device-4"))
    yield "no certificate", reasons.UNKNOWN_DEVICE, report(good, introduce=False)
    yield "stolen certificate", reasons.BAD_SIGNATURE, report(borrowed(good, key))
    server = fleet().issue_server(("device-3",), key.public_key())
    poser = Author(good.subject, signer_of(server, key), (certificates.der(server),))
    yield "server's certificate", reasons.UNKNOWN_DEVICE, report(poser)
    for case, changed in unreadable(good.chain[0]).items():
        posing = Author(good.subject, envelope.KeySigner(key, changed), (changed,))
        yield f"certificate {case}", reasons.MALFORMED, report(posing)
    yield "kind", reasons.WRONG_KIND, report(good, message=Receipt(0, b"d" * 32))
    yield "garbage", reasons.MALFORMED, b"garbage"
    yield "size", reasons.TOO_LARGE, b"x" * (1 << 20)


def unreadable(der):
    """Certificates that the cryptography package fails on, each with an error of another kind."""
    return {
        "cut short": der[:-1],
        "of another version": der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020105"), 1),
    }


def borrowed(who, key):
    """Another's certificate with a key that is not its own."""

    class Signer:
        key_id, algorithm = who.signer.key_id, who.signer.algorithm

        def sign(self, data):
            return signer_of(certificate_of(who), key).sign(data)

    return dataclasses.replace(who, signer=Signer())


def signer_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey):
    return envelope.KeySigner(key, certificates.der(certificate))


CASES = [case for case, _, _ in hostile()]


@pytest.mark.parametrize("case", CASES)
def test_whom_the_authority_did_not_certify_for_this_place_stays_unknown(region, case):
    [(_, reason, sealed)] = [one for one in hostile() if one[0] == case]
    heard = []
    region.service.reported = lambda *args: heard.append(args)
    hears(region, sealed)
    assert region.ledger.refusals() == {reason: 1}
    assert not region.ledger.knows_device("device-3")
    assert heard == []
    assert [topic for topic, _ in region.sent if "device" in topic] == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_report_is_refused(region, place, bit):
    sealed = bytearray(report(device("device-9")))
    sealed[place % len(sealed)] ^= 1 << bit
    hears(region, bytes(sealed), "device-9")
    assert not region.ledger.knows_device("device-9")


# ---- no longer known


def test_a_delta_under_a_certificate_that_has_ended_is_refused_as_expired(region):
    old = device(days=30.0)
    hears(region, report(old))
    region.now += 40 * DAY
    region.hears(region.delta("device-3", who=old), "device-3")
    assert region.refusals("device-3") == [reasons.EXPIRED]
    hears(region, report(device()))
    region.hears(region.delta("device-3", who=device()), "device-3")
    assert region.refusals("device-3") == [reasons.EXPIRED, reasons.UNKNOWN_DEVICE]


def test_a_revoked_devices_deltas_and_reports_are_refused_and_nobody_waits_for_it(region):
    old, new = device(), device()
    for who in (old, new):
        hears(region, report(who))
    region.online("device-1", "device-2", "device-3")
    serials = [certificate_of(who).serial_number for who in (old, new)]
    region.service.revoke(revoked(serials, 5), region.now)
    for who in (old, new):
        region.hears(region.delta("device-3", who=who), "device-3")
    hears(region, report(new, counter=9))
    assert region.refusals("device-3") == [reasons.REVOKED, reasons.REVOKED]
    assert region.ledger.refusals() == {reasons.REVOKED: 3}
    for name in ("device-1", "device-2"):
        region.hears(region.delta(name), name)
    region.waits(region.rules.grace)
    assert region.ledger.current_round().number == 1
    assert region.stored[0] == ["device-1", "device-2"]


def test_a_device_that_is_revoked_before_it_was_known_never_becomes_known(region):
    who = device()
    region.service.revoke(revoked([certificate_of(who).serial_number], 5), region.now)
    hears(region, report(who))
    assert not region.ledger.knows_device("device-3")
    hears(region, report(device()))
    assert region.ledger.trusts("device-3", region.now)


def test_one_revoked_certificate_of_two_leaves_the_other_good(region):
    old, new = device(), device()
    for who in (old, new):
        hears(region, report(who))
    region.service.revoke(revoked([certificate_of(old).serial_number], 5), region.now)
    sealed = region.delta("device-3", who=new)
    region.hears(sealed, "device-3")
    region.hears(region.delta("device-3", who=old, vector=np.ones(24, np.float32)), "device-3")
    assert region.receipts("device-3") == [envelope.digest(sealed)]
    assert region.refusals("device-3") == [reasons.REVOKED]


def test_the_list_is_published_and_published_again_at_every_connection(region):
    found = revoked([1, 2], 5)
    region.service.revoke(found, region.now)
    assert region.sent[-1] == (TOPICS.revoked, found.der)
    region.sent.clear()
    region.service.connected(region.now)
    assert (TOPICS.revoked, found.der) in region.sent


def test_an_older_list_brings_nobody_back_and_is_not_published(region):
    certificate, _ = certified("device", "device-1")
    newer = revoked([certificate.serial_number], 5)
    region.service.revoke(newer, region.now)
    region.boot()
    region.sent.clear()
    region.service.revoke(revoked([], 4), region.now)
    assert region.sent == []
    region.service.revoke(revoked([], 6), region.now)
    assert region.ledger.is_revoked(certificate)


def test_a_list_that_came_while_the_disk_was_full_is_honoured_once_it_is_not(region):
    certificate, _ = certified("device", "device-1")
    region.disk.broken = lambda: True
    region.service.revoke(revoked([certificate.serial_number], 5), region.now)
    region.disk.broken = lambda: False
    assert not region.ledger.is_revoked(certificate)
    region.waits(20.0)
    region.hears(region.delta("device-1"), "device-1")
    assert region.refusals("device-1") == [reasons.REVOKED]
