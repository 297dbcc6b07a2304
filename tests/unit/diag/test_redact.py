"""What is a secret is taken out, wherever it stands; what is not stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.diag import redact
from marram.wire.tokens import Token

SECRET = "Xy7kQ2vB9mHunter"


@pytest.mark.parametrize(
    "text",
    [
        f"password: {SECRET}",
        f'"password": "{SECRET}"',
        f"mqtt_password={SECRET}",
        f"PASSWORD = '{SECRET} with blanks'",
        f"     3 |   secret: {SECRET}\n       |           ^",
        f"broker: mqtts://user:{SECRET}@broker:8883/x",
        f"https://{SECRET}@host",
        f"pkcs11:token=marram;object=device?pin-value={SECRET}&x=1",
        f"Authorization: Basic {SECRET}",
        f"authorization: Bearer {SECRET}",
        f"api_key: {SECRET}",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"enrol --token={SECRET}",
    ],
)
def test_a_secret_is_left_out(text):
    assert SECRET not in redact.text(text)
    assert "hunter" not in redact.text(text.replace("Hunter", "hunter"))


@pytest.mark.parametrize(
    "text",
    [
        "password_file: /etc/marram/password",
        "broker: mqtts://broker.example:8883",
        "key: credential:device.key",
        "sha256: 0f72b0e0f72b0e0f72b0e0f72b0e",
        "spinning: 3 turns",
        "the tokens of 5 devices",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact.text(text) == text


def test_an_enrolment_token_is_known_by_its_form():
    token = str(Token.new(b"authority"))
    assert redact.text(f"a line with {token} in it") == f"a line with {redact.MASK} in it"


plain = st.none() | st.integers() | st.text("ab :=/@", max_size=8)
names = st.sampled_from(["name", "pin", "user_password", "list"])
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)


@given(trees)
def test_a_tree_keeps_its_shape_and_loses_what_has_a_secrets_name(value):
    found = redact.tree({"password": "abc", "inner": value})
    assert found["password"] == redact.MASK
    json.dumps(found)

    def shape(one):
        if isinstance(one, dict):
            return {key: shape(inner) for key, inner in one.items()}
        return [shape(inner) for inner in one] if isinstance(one, list) else None

    assert shape(found["inner"]) == shape(value)
