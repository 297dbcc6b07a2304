"""The envelope: what was sealed for a topic comes back, and nothing else does."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import cbor, envelope, reasons
from marram.wire.envelope import Header, KeySigner, parse, seal, verify

TOPIC = "marram/fleet/north/device/a1/up/delta"
KEYS = {"es256": ec.generate_private_key(ec.SECP256R1()), "eddsa": ed25519.Ed25519PrivateKey.generate()}
MAX = 1 << 20


def certificate(key: envelope.PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a1")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(days=9))
    )  # fmt: skip
    signed = builder.sign(key, hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None)
    return signed.public_bytes(serialization.Encoding.DER)


def header(signer: envelope.Signer, **more: object) -> Header:
    fields = {
        "content_type": "delta",
        "fleet": "fleet",
        "sender": "a1",
        "counter": 7,
        "key_id": signer.key_id,
    }
    return Header(**(fields | more))  # type: ignore[arg-type]


def reason(data: bytes, topic: str, key: envelope.PublicKey) -> str | None:
    try:
        verify(parse(data, MAX), topic, key)
    except WireError as error:
        return error.reason
    return None


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("links", [0, 1, 3])
def test_roundtrip(kind, links):
    key = KEYS[kind]
    own = certificate(key)
    chain = (own, b"issuer", b"root")[:links]
    signer = KeySigner(key, own)
    head = header(signer, round=3, base=b"\x05" * 32)
    sealed = parse(seal(b"payload", head, TOPIC, signer, chain), MAX)
    assert (sealed.header, sealed.payload, sealed.chain) == (head, b"payload", chain)
    assert sealed.algorithm == signer.algorithm
    assert len(sealed.signature) == 64
    verify(sealed, TOPIC, key.public_key())


@pytest.mark.parametrize("kind", KEYS)
def test_another_topic_or_key_is_refused(kind):
    key = KEYS[kind]
    signer = KeySigner(key)
    data = seal(b"payload", header(signer), TOPIC, signer)
    assert reason(data, TOPIC, key.public_key()) is None
    assert reason(data, TOPIC.replace("a1", "a2"), key.public_key()) == reasons.BAD_SIGNATURE
    assert reason(data, "", key.public_key()) == reasons.BAD_SIGNATURE
    for other in (
        ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ):  # fmt: skip
        assert reason(data, TOPIC, other.public_key()) == reasons.BAD_SIGNATURE  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KEYS)
def test_every_flipped_bit_is_refused(kind):
    key = KEYS[kind]
    own = certificate(key)
    signer = KeySigner(key, own)
    data = seal(b"payload", header(signer, round=0, base=b"\x05" * 32), TOPIC, signer, (own,))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(bytes(flipped), TOPIC, key.public_key()) is not None, bit


@settings(max_examples=300)
@given(st.data())
def test_mutated_envelopes_are_only_ever_refused(data):
    signer = KeySigner(KEYS["eddsa"])
    mutated = bytearray(seal(b"payload", header(signer), TOPIC, signer))
    original = bytes(mutated)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    refused = reason(bytes(mutated), TOPIC, KEYS["eddsa"].public_key())
    assert refused in (reasons.MALFORMED, reasons.BAD_SIGNATURE) or bytes(mutated) == original


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes_are_only_ever_refused(data):
    with pytest.raises(WireError):
        parse(data, MAX)


def test_too_large():
    signer = KeySigner(KEYS["eddsa"])
    data = seal(b"payload", header(signer), TOPIC, signer)
    assert parse(data, len(data)).payload == b"payload"
    with pytest.raises(WireError) as caught:
        parse(data, len(data) - 1)
    assert caught.value.reason == reasons.TOO_LARGE


def forge(
    fields: object, unprotected: dict[int, object] | None = None, payload: object = b"payload"
) -> bytes:
    protected = fields if isinstance(fields, bytes) else cbor.encode(fields)
    return cbor.encode(cbor.Tagged(18, [protected, unprotected or {}, payload, b"\x00" * 64]))


GOOD = {1: -8, 3: "delta", 4: b"\x01" * 32, -65537: "fleet", -65538: "a1", -65539: 7}


def test_the_forged_header_would_do():
    assert parse(forge(GOOD), MAX).header.counter == 7


@pytest.mark.parametrize(
    "data",
    [
        *(forge({key: value for key, value in GOOD.items() if key != absent}) for absent in GOOD),
        forge(GOOD | {2: [-65537]}),  # crit
        forge(GOOD | {5: b"iv"}),
        forge(GOOD | {-65542: 1}),
        forge(GOOD | {"alg": 1}),
        forge(GOOD | {1: -35}),
        forge(GOOD | {1: "ES256"}),
        forge(GOOD | {3: 0}),
        forge(GOOD | {3: ""}),
        forge(GOOD | {4: b"11"}),
        forge(GOOD | {-65538: "a" * 101}),
        forge(GOOD | {-65539: -1}),
        forge(GOOD | {-65539: True}),
        forge(GOOD | {-65539: 1.0}),
        forge(GOOD | {-65539: 2**53 + 1}),
        forge(GOOD | {-65540: None}),
        forge(GOOD | {-65541: b"short"}),
        forge([1]),
        forge(b""),
        forge(b"\xa2\x04\x41\x31\x01\x26"),
        forge(GOOD, {4: b"\x01" * 32}),
        forge(GOOD, {33: []}),
        forge(GOOD, {33: [b"one"]}),
        forge(GOOD, {33: "text"}),
        forge(GOOD, {33: [b"c"] * 9}),
        forge(GOOD, {33: b"another certificate"}),
        forge(GOOD, payload=None),
        forge(GOOD, payload="text"),
        forge(GOOD)[1:],
        cbor.encode(cbor.Tagged(18, [cbor.encode(GOOD), {}, b"payload"])),
        cbor.encode(cbor.Tagged(18, [GOOD, {}, b"payload", b"\x00" * 64])),
        cbor.encode(cbor.Tagged(18, [cbor.encode(GOOD), {}, b"payload", b"\x00" * 63])),
        cbor.encode(cbor.Tagged(18, {1: 2})),
    ],
)
def test_impossible_envelopes_are_refused(data):
    with pytest.raises(WireError) as caught:
        parse(data, MAX)
    assert caught.value.reason == reasons.MALFORMED


def test_a_protected_header_out_of_order_is_refused():
    items = [cbor.encode(key) + cbor.encode(value) for key, value in reversed(GOOD.items())]
    with pytest.raises(WireError, match="deterministic"):
        parse(forge(b"\xa6" + b"".join(items)), MAX)


def test_the_signer_is_the_one_that_the_header_names():
    with pytest.raises(ValueError, match="another key"):
        seal(b"", header(KeySigner(KEYS["es256"])), TOPIC, KeySigner(KEYS["eddsa"]))


def test_other_keys_cannot_sign():
    with pytest.raises(ValueError, match="P-256"):
        KeySigner(ec.generate_private_key(ec.SECP384R1()))


def test_zero_signature_is_no_signature():
    data = seal(b"payload", header(KeySigner(KEYS["es256"])), TOPIC, KeySigner(KEYS["es256"]))
    assert reason(data[:-64] + bytes(64), TOPIC, KEYS["es256"].public_key()) == reasons.BAD_SIGNATURE
