"""Lists of revoked certificates: what is read, and what is no list of this authority."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import reasons
from marram.wire.revocation import read
from marram_cloud.enrolment import revocations

from tests.support.identities import fleet, stranger

NOW = 1.8e9
serials = st.sets(st.integers(1, (1 << 159) - 1), max_size=20)


@settings(deadline=None)
@given(serials, st.integers(1, 1 << 62))
def test_a_list_says_what_it_was_made_of_in_pem_and_in_der(revoked, number):
    pem = revocations.make(fleet(), [(serial, NOW) for serial in revoked], number, NOW)
    found = read(pem, fleet().certificate)
    assert (found.number, found.serials) == (number, revoked)
    assert round((found.until.timestamp() - NOW) / 86400) == 365
    assert read(found.der, fleet().certificate) == found


def test_a_list_of_another_authority_is_refused():
    pem = revocations.make(stranger(), [], 1, NOW)
    with pytest.raises(WireError, match="not signed by this fleet's authority") as caught:
        read(pem, fleet().certificate)
    assert caught.value.reason == reasons.BAD_SIGNATURE


def test_a_list_without_a_number_is_refused():
    moment = fleet().certificate.not_valid_before_utc
    builder = x509.CertificateRevocationListBuilder().issuer_name(fleet().certificate.subject)
    made = builder.last_update(moment).next_update(fleet().certificate.not_valid_after_utc)
    content = made.sign(fleet().key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(WireError) as caught:
        read(content, fleet().certificate)
    assert caught.value.reason == reasons.MALFORMED


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN X509 CRL-----\nAA\n", b"\x30\x00"])
def test_what_is_no_list_is_refused(content):
    with pytest.raises(WireError) as caught:
        read(content, fleet().certificate)
    assert caught.value.reason == reasons.MALFORMED


def test_a_list_of_a_version_that_there_is_not_is_refused():
    der = read(revocations.make(fleet(), [(5, NOW)], 1, NOW), fleet().certificate).der
    for spoilt in (
        der.replace(b"\x02\x01\x01", b"\x02\x01\x00", 1),
        der.replace(b"\x55\x1d\x14", b"\x55\x1d\x23", 1),
    ):
        assert spoilt != der
        with pytest.raises(WireError) as caught:
            read(spoilt, fleet().certificate)
        assert caught.value.reason == reasons.MALFORMED


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(place, bit):
    der = bytearray(read(revocations.make(fleet(), [(5, NOW)], 1, NOW), fleet().certificate).der)
    der[place % len(der)] ^= 1 << bit
    with pytest.raises(WireError):
        read(bytes(der), fleet().certificate)
