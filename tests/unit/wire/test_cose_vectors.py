"""The envelope's low level against published examples.

The COSE_Sign1 example of RFC 9052 (Appendix C.2.1, key "11" of Appendix C.7), test 1 of RFC 8032 (section
7.1), and the single-signer examples (sound and spoilt) of github.com/cose-wg/Examples, which RFC 9052 and
RFC 9053 refer to: ES256 and EdDSA, and what must not pass for them.
"""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from marram.errors import WireError
from marram.wire import cbor, envelope

RFC9052_C21 = bytes.fromhex(
    "d28443a10126a10442313154546869732069732074686520636f6e74656e742e58408eb33e4ca31d1c465ab05aac34cc6b23"
    "d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36"
)
RFC9052_KEY_11 = ec.EllipticCurvePublicNumbers(
    0xBAC5B11CAD8F99F9C72B05CF4B9E26D244DC189F745228255A219A86D6A09EFF,
    0x20138BF82DC1B6D562BE0FA54AB7804A3A64B6D72CCFED6B6FB6ED28BBFC117E,
    ec.SECP256R1(),
).public_key()
RFC8032_SECRET_1 = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC8032_SIGNATURE_1 = bytes.fromhex(
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595b"
    "be24655141438e7a100b"
)


def test_rfc_9052_example_verifies():
    assert envelope.verify1(RFC9052_C21, b"", RFC9052_KEY_11) == b"This is the content."


def test_rfc_9052_example_is_rebuilt_byte_by_byte():
    protected, unprotected, payload, signature = envelope.open1(RFC9052_C21)
    assert unprotected == {4: b"11"}
    assert envelope.sig_structure(protected, b"", payload) == bytes.fromhex(
        "846a5369676e61747572653143a101264054546869732069732074686520636f6e74656e742e"
    )
    again = cbor.encode(cbor.Tagged(18, [protected, unprotected, payload, signature]))
    assert again == RFC9052_C21


def test_rfc_9052_example_with_another_aad_is_refused():
    with pytest.raises(WireError) as caught:
        envelope.verify1(RFC9052_C21, b"topic", RFC9052_KEY_11)
    assert caught.value.reason == "bad_signature"


def test_rfc_8032_signature():
    key = ed25519.Ed25519PrivateKey.from_private_bytes(RFC8032_SECRET_1)
    assert envelope.KeySigner(key).sign(b"") == RFC8032_SIGNATURE_1


VECTORS = json.loads(Path(__file__).with_name("cose_vectors.json").read_text())
"""Public domain. ``refused_because``: what was spoilt, or what of sound COSE this protocol does not speak."""


def public_key(vector: dict[str, str]) -> envelope.PublicKey:
    if vector["curve"] == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["x"]))
    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[vector["curve"]]
    x, y = (int(vector[name], 16) for name in "xy")
    return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()


def vectors(refused: bool) -> list[pytest.ParameterSet]:
    return [
        pytest.param(vector, id=vector["name"])
        for vector in VECTORS
        if (vector["refused_because"] is not None) == refused
    ]


@pytest.mark.parametrize("vector", vectors(refused=False))
def test_an_example_of_the_working_group_verifies(vector):
    message, aad = bytes.fromhex(vector["message"]), bytes.fromhex(vector["external_aad"])
    assert envelope.verify1(message, aad, public_key(vector)) == vector["payload"].encode()
    protected, _, payload, _ = envelope.open1(message)
    assert envelope.sig_structure(protected, aad, payload).hex() == vector["sig_structure"]


@pytest.mark.parametrize("vector", vectors(refused=True))
def test_an_example_that_must_fail_is_refused(vector):
    message, aad = bytes.fromhex(vector["message"]), bytes.fromhex(vector["external_aad"])
    with pytest.raises(WireError):
        envelope.verify1(message, aad, public_key(vector))
