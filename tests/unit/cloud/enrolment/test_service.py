"""Who gets a certificate and who does not, by name; tokens count once whatever comes at the same time."""

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.wire import certificates
from marram.wire.tokens import Token
from marram_cloud.enrolment import authority
from marram_cloud.enrolment.files import FleetFolder
from marram_cloud.enrolment.requests import MAX_REQUEST, RefusedError, read_request
from marram_cloud.enrolment.service import AGAIN, DAILY, EnrolmentService, TokenError

from tests.support.enrolment import request

DAY = 86400.0
NOW = time.time()


class Office:
    """A fleet's enrolment without a network."""

    def __init__(self, folder):
        self.folder, self.issuer = folder, authority.load(folder.path)
        self._open = folder.registry()
        self.registry = self._open.__enter__()
        self.service = EnrolmentService(folder, self.issuer, self.registry)

    def close(self):
        self._open.__exit__(None, None, None)

    def token(self, device=None, count=1, expires=DAY):
        token = Token.new(certificates.der(self.issuer.certificate))
        with self.registry.transaction():
            self.registry.add_token(token, device, count, NOW, NOW + expires)
        return str(token)

    def enrol(self, name, token, key=None, now=NOW, body=None):
        key = key or authority.new_key()
        return self.service.enrol(name, token, body or request(name, key), now)

    def renew(self, old, key=None, now=NOW, name=None):
        name = name or certificates.subject_of(old).name
        return self.service.renew(old, request(name, key or authority.new_key()), now)


@pytest.fixture
def office(tmp_path):
    made = Office(FleetFolder.create(tmp_path / "fleet", "dunes", "north", device_days=30))
    yield made
    made.close()


def refused(status, words):
    class _Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            assert isinstance(error, RefusedError), f"not refused: {error}"
            assert (error.status, words in str(error)) == (status, True), (error.status, str(error))
            return True

    return _Refused()


# ---- the good way


@pytest.mark.parametrize(
    "key", [authority.new_key(), ed25519.Ed25519PrivateKey.generate()], ids=["p256", "ed25519"]
)
def test_a_token_gives_a_certificate_for_the_devices_own_key_and_the_fleets_lifetime(office, key):
    made = office.enrol("press-01", office.token("press-01"), key)
    assert certificates.subject_of(made).uri == "marram://dunes/north/device/press-01"
    assert made.subject.rfc4514_string() == "CN=press-01"
    assert made.public_key() == key.public_key()
    certificates.check_issued(made, office.issuer.certificate, NOW)
    assert round((made.not_valid_after_utc.timestamp() - NOW) / DAY) == 30
    assert [one.certificate for one in office.registry.of_device("press-01")] == [made]


def test_a_token_for_a_count_is_good_for_so_many_new_devices(office):
    token = office.token(count=3)
    names = {certificates.subject_of(office.enrol(f"d{number}", token)).name for number in range(3)}
    assert names == {"d0", "d1", "d2"}
    with refused(403, "used up"):
        office.enrol("d3", token)


def test_a_lost_answer_is_given_again_to_the_same_key_and_to_no_other(office):
    token, key = office.token("press-01"), authority.new_key()
    made = office.enrol("press-01", token, key)
    # Another request for the same key: a signature of ECDSA is never the same twice.
    assert office.enrol("press-01", token, key, NOW + 2 * DAY) == made
    with refused(403, "used up"):
        office.enrol("press-01", token, authority.new_key())
    with refused(403, "used up"):
        office.enrol("press-01", token, key, NOW + AGAIN)
    assert len(office.registry.of_device("press-01")) == 1


def test_of_many_requests_at_once_with_one_token_one_wins(office):
    token, names = office.token(count=1), [f"d{number}" for number in range(8)]
    together = threading.Barrier(8)

    def work(name):
        # A registry of its own, as another process has.
        other = Office(office.folder)
        try:
            together.wait(20)
            return other.enrol(name, token)
        except RefusedError as error:
            return error.status
        finally:
            other.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, names))
    assert sorted(str(type(one).__name__) for one in answers) == ["Certificate", *["int"] * 7]
    assert {one for one in answers if isinstance(one, int)} == {403}


def test_a_device_bound_token_lets_a_known_device_begin_with_a_new_key(office):
    first = office.enrol("press-01", office.token("press-01"))
    second = office.enrol("press-01", office.token("press-01"))
    assert {one.certificate for one in office.registry.of_device("press-01")} == {first, second}


# ---- tokens that are refused


def test_tokens_are_refused_by_name(office, tmp_path):
    other = Office(FleetFolder.create(tmp_path / "other", "dunes", "north"))
    good = office.token("press-01")
    id, secret, fingerprint = good.split("_")[1:]
    spoilt = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    cases = [
        (401, "no enrolment token", "hunter2"),
        (401, "no enrolment token", ""),
        (401, "of another fleet", other.token("press-01")),
        (401, "with this secret", f"mrm1_{id}_{spoilt}_{fingerprint}"),
        (401, "with this secret", str(Token.new(certificates.der(office.issuer.certificate)))),
        (403, "for another device", office.token("press-02")),
        (403, "expired", office.token("press-01", expires=0)),
    ]
    for status, words, token in cases:
        with refused(status, words) as caught:
            office.enrol("press-01", token)
        assert caught is not None
    with office.registry.transaction():
        office.registry.withdraw(id, NOW)
    with refused(403, "withdrawn"):
        office.enrol("press-01", good)
    assert office.registry.of_device("press-01") == []
    other.close()


def test_a_withdrawn_token_gives_no_lost_answer_either(office):
    token, key = office.token("a"), authority.new_key()
    office.enrol("a", token, key)
    with office.registry.transaction():
        office.registry.withdraw(token.split("_")[1], NOW)
    with refused(403, "withdrawn"):
        office.enrol("a", token, key)


def test_a_token_for_a_count_takes_over_no_device_that_was_there_before(office):
    office.enrol("press-01", office.token("press-01"))
    token = office.token(count=2)
    with refused(409, "there was a device 'press-01' before"):
        office.enrol("press-01", token)
    office.folder.enrol("by-hand")
    with refused(409, "there was a device 'by-hand' before"):
        office.enrol("by-hand", token)
    assert office.enrol("press-02", token)


@pytest.mark.parametrize("name", ["aggregator", "a/b", "", "+", "a b", "x" * 49])
def test_no_token_gives_a_name_that_is_not_a_devices(office, name):
    with refused(400, "name"):
        office.enrol(name, office.token(count=1), body=request("x", authority.new_key()))


def test_what_is_refused_for_its_request_costs_no_token(office):
    token = office.token("press-01")
    with refused(400, "not a PKCS #10"):
        office.enrol("press-01", token, body=b"garbage")
    assert office.enrol("press-01", token)


def test_a_refused_token_is_told_apart_from_a_bad_request(office):
    with pytest.raises(TokenError):
        office.enrol("press-01", "hunter2")
    with pytest.raises(RefusedError) as caught:
        office.enrol("press-01", office.token("press-01"), body=b"x")
    assert not isinstance(caught.value, TokenError)


# ---- requests that are refused


def flipped(body):
    """The request with another bit in its signature."""
    der = bytearray(base64.b64decode(body))
    der[-1] ^= 1
    return base64.b64encode(der)


def versioned(body):
    """The request with a version that there is not: it stands behind the heads of two sequences."""
    der = bytearray(base64.b64decode(body))
    place = der.index(b"\x02\x01\x00")
    der[place + 2] = 1
    return base64.b64encode(der)


BAD_REQUESTS = {
    "empty": (400, "not a PKCS #10", b""),
    "pem": (400, "without PEM lines", b"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n"),
    "der": (400, "in base64", base64.b64decode(request("a", authority.new_key()))),
    "no request": (400, "not a PKCS #10", base64.b64encode(b"\x30\x03\x02\x01\x00")),
    "oversized": (413, "more than", b"A" * (MAX_REQUEST + 1)),
    "rsa": (400, "neither P-256 nor Ed25519", request("a", rsa.generate_private_key(65537, 2048))),
    "p384": (400, "neither P-256 nor Ed25519", request("a", ec.generate_private_key(ec.SECP384R1()))),
    "signature": (400, "not signed by the key in it", flipped(request("a", authority.new_key()))),
    "name": (400, "make it again with CN=a", request("b", authority.new_key())),
    "version": (400, "not a PKCS #10", versioned(request("a", authority.new_key()))),
    "no name": (400, "common name is []", request("", authority.new_key())),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused_by_name(case):
    status, words, body = BAD_REQUESTS[case]
    with refused(status, words):
        read_request(body, "a")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_request_with_other_bytes_in_it_is_refused_or_the_same(place, put):
    key = authority.new_key()
    der = base64.b64decode(request("a", key))
    place %= len(der)
    spoilt = der[:place] + put + der[place + len(put) :]
    try:
        assert read_request(base64.b64encode(spoilt), "a") == key.public_key()
        assert spoilt == der
    except RefusedError as error:
        assert error.status == 400


def test_a_key_that_another_device_has_is_refused(office):
    key = authority.new_key()
    office.enrol("a", office.token("a"), key)
    with refused(409, "belongs to another device"):
        office.enrol("b", office.token("b"), key)


# ---- renewal


def test_a_device_renews_with_a_new_key_and_the_old_certificate_stays_good(office):
    old = office.enrol("a", office.token("a"))
    key = authority.new_key()
    new = office.renew(old, key, NOW + 20 * DAY)
    assert certificates.subject_of(new) == certificates.subject_of(old)
    assert new.public_key() == key.public_key()
    assert old.serial_number not in office.folder.revocations().serials
    # A lost answer: the same key gets the same certificate.
    assert office.renew(old, key, NOW + 20 * DAY + 60) == new


def test_a_certificate_made_by_hand_is_renewed_too(office):
    _, old = office.folder.enrol("by-hand")
    assert office.renew(old) != old


def test_renewal_is_for_devices_of_this_fleet_and_for_their_own_name(office):
    old = office.enrol("a", office.token("a"))
    with refused(400, "make it again with CN=a"):
        office.renew(old, name="b")
    aggregator = x509.load_pem_x509_certificate((office.folder.path / "aggregator/device.crt").read_bytes())
    with refused(403, "is no device of this fleet"):
        office.renew(aggregator)
    broker = office.issuer.issue_server(("localhost",), authority.new_key().public_key())
    with refused(403, "names no device"):
        office.renew(broker, name="localhost")
    south = certificates.Subject("dunes", "south", "device", "a")
    with refused(403, "is no device of this fleet and region"):
        office.renew(office.issuer.issue(south, authority.new_key().public_key()))


def test_a_revoked_device_renews_with_none_of_its_certificates_and_comes_back_by_a_token_only(office):
    token, key = office.token("a"), authority.new_key()
    first = office.enrol("a", token, key)
    second = office.renew(first)
    office.folder.revoke(["a"])
    for old in (first, second):
        with refused(403, "was revoked"):
            office.renew(old)
    with refused(403, "was revoked"):
        office.enrol("a", token, key)
    again = office.enrol("a", office.token("a"))
    assert again.serial_number not in office.folder.revocations().serials
    assert office.renew(again)


def test_a_device_gone_wild_gets_so_many_certificates_a_day_and_no_more(office):
    old = office.enrol("a", office.token("a"))
    for _ in range(DAILY):
        office.renew(old)
    with refused(429, "within a day"):
        office.renew(old)
    assert office.renew(old, now=NOW + DAY + 1)
