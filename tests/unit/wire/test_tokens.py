"""Enrolment tokens: what is printed is read again, anything else is refused, the secret is never shown."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.wire.tokens import Token, fingerprint


@given(st.binary(max_size=200))
def test_a_printed_token_is_read_again_and_names_its_authority_only(authority):
    token = Token.new(authority)
    assert Token.parse(str(token)) == token
    assert Token.parse(f" {token}\n") == token
    assert token.names(authority)
    assert not token.names(authority + b"x")


def test_the_fingerprint_is_the_beginning_of_the_certificates_sha256():
    assert fingerprint(b"certificate") == hashlib.sha256(b"certificate").hexdigest()[:32]


def test_no_two_tokens_are_alike():
    made = [Token.new(b"") for _ in range(50)]
    assert len({token.id for token in made}) == len({token.secret for token in made}) == 50


@given(st.data())
def test_a_token_with_any_letter_missing_or_changed_to_no_digit_is_refused_without_showing_it(data):
    text = str(Token.new(b"authority"))
    place = data.draw(st.integers(0, len(text) - 1))
    for spoilt in (text[:place] + text[place + 1 :], text[:place] + "ß" + text[place + 1 :]):
        with pytest.raises(ValueError, match="no enrolment token") as caught:
            Token.parse(spoilt)
        assert text.split("_")[2] not in str(caught.value)


def test_the_secret_is_in_no_representation():
    token = Token.new(b"authority")
    assert token.secret not in repr(token)
