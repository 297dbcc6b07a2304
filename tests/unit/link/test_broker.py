"""The address of a broker: the same rules for a configuration and for a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.errors import LinkError
from marram.link.broker import Broker, read_broker


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "http://host", "mqtt://", "mqtt://host/path", "mqtt://host:port", "mqtt://host:70000"],
)
def test_an_address_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(LinkError, match="broker"):
        Broker.parse(url)


def test_the_ports_of_plain_and_of_tls_are_the_usual_ones() -> None:
    assert (Broker.parse("mqtt://host").port, Broker.parse("mqtts://host").port) == (1883, 8883)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(LinkError, match="may not hold a user name or password") as caught:
        Broker.parse("mqtt://me:secret@host")
    assert "secret" not in str(caught.value)


@given(st.text(alphabet="mqts:/@[]. 0123456789abc?#%", max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        broker = read_broker(text)
    except ValueError:
        with pytest.raises(LinkError):
            Broker.parse(text)
    else:
        assert Broker.parse(text) == broker
