"""A device whose link is up, and the voice of its aggregator."""

import pytest

from tests.support.aggregator import Voice
from tests.support.device import Device


@pytest.fixture
def voice():
    return Voice()


@pytest.fixture
def device():
    made = Device()
    made.connects()
    return made
