"""Predictions on standard output, and a reader that goes away."""

import os
from pathlib import Path

import msgspec
import pytest
from marram.errors import OutputError
from marram.outputs.stdout import StdoutOutput

from tests.unit.outputs.test_jsonl import prediction


def test_each_block_is_there_at_once():
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        output = StdoutOutput(writer)
        output.write([prediction(0), prediction(1)])
        starts = [msgspec.json.decode(reader.readline())["start"] for _ in range(2)]
        output.close()
    assert starts == [0, 1]


def test_a_reader_that_went_away_is_an_error_each_time():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as pipe:
        output = StdoutOutput(pipe)
        for _ in range(2):
            with pytest.raises(OutputError, match=r"standard output cannot be written: .*Broken pipe"):
                output.write([prediction()])


def test_a_full_disk_is_an_error_each_time():
    with Path("/dev/full").open("wb", buffering=0) as full:
        output = StdoutOutput(full)
        for _ in range(2):
            with pytest.raises(OutputError, match="No space left on device"):
                output.write([prediction()])
