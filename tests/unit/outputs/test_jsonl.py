"""Predictions in a file: whole lines only, older files by number, and a full disk that gets room again."""

import json
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import OutputError
from marram.inference.prediction import Cause, Prediction
from marram.outputs.jsonl import JsonlConfig
from marram.outputs.output import OUTPUTS, OutputContext


def prediction(number=0, **keys):
    return Prediction(float(number), number + 1.0, "normal", "m 1", 12.5, **keys)


def open_file(path, **keys):
    return OUTPUTS.open(JsonlConfig(path=path, **keys), OutputContext())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_holds_the_span_the_label_the_scores_and_where_they_come_from(tmp_path):
    output = open_file(tmp_path / "new" / "folder" / "p.jsonl")
    output.write([prediction(scores={"a": 0.25, "b": 0.75})])
    output.write([prediction(5, score=3.5, threshold=1.0, causes=(Cause("cpu", 0.9),), repaired=True)])
    output.close()
    usual = {"label": "normal", "model": "m 1", "latency_us": 12.5}
    assert lines(tmp_path / "new" / "folder" / "p.jsonl") == [
        {"start": 0.0, "end": 1.0, **usual, "scores": {"a": 0.25, "b": 0.75}},
        {
            "start": 5.0,
            "end": 6.0,
            **usual,
            "score": 3.5,
            "threshold": 1.0,
            "causes": [{"channel": "cpu", "share": 0.9}],
            "repaired": True,
        },
    ]


def test_a_file_that_is_there_is_continued(tmp_path):
    for number in range(2):
        output = open_file(tmp_path / "p.jsonl")
        output.write([prediction(number)])
        output.close()
    assert [line["start"] for line in lines(tmp_path / "p.jsonl")] == [0, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=25), st.integers(1, 1500), st.integers(0, 3))
def test_rotation_keeps_the_newest_whole_lines_in_order(tmp_path_factory, blocks, limit, keep):
    folder = tmp_path_factory.mktemp("rotated")
    output, number = open_file(folder / "p.jsonl", max_bytes=limit, keep=keep), 0
    sizes = []
    for count in blocks:
        output.write([prediction(number + n) for n in range(count)])
        sizes.append(count)
        number += count
    output.close()
    files = [folder / "p.jsonl", *(folder / f"p.jsonl.{n}" for n in range(1, keep + 1))]
    assert {path.name for path in folder.iterdir()} <= {path.name for path in files}
    there = [path for path in reversed(files) if path.exists()]
    starts = [line["start"] for path in there for line in lines(path)]
    assert starts == list(range(number - len(starts), number))
    for path in there:
        assert path.stat().st_size <= max(limit, 80 * max(sizes))


def test_a_full_disk_is_an_error_each_time(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    output = open_file(tmp_path / "full")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"full: cannot be written: No space left on device"):
            output.write([prediction()])
    output.close()


def test_a_disk_that_was_full_in_mid_line_goes_on_with_whole_lines(tmp_path):
    output = open_file(tmp_path / "p.jsonl")
    output.write([prediction(0)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (120, hard))
        with pytest.raises(OutputError, match=r"p\.jsonl: cannot be written"):
            output.write([prediction(1), prediction(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    output.write([prediction(3)])
    output.close()
    assert [line["start"] for line in lines(tmp_path / "p.jsonl")] == [0, 3]


def test_a_rotation_that_fails_is_an_error_and_the_next_write_goes_on(tmp_path):
    output = open_file(tmp_path / "p.jsonl", max_bytes=1, keep=1)
    (tmp_path / "p.jsonl.1").mkdir()
    (tmp_path / "p.jsonl.1" / "in the way").touch()
    output.write([prediction(0)])
    with pytest.raises(OutputError, match=r"p\.jsonl: cannot be written: Is a directory"):
        output.write([prediction(1)])
    (tmp_path / "p.jsonl.1" / "in the way").unlink()
    (tmp_path / "p.jsonl.1").rmdir()
    output.write([prediction(2)])
    output.write([prediction(3)])
    output.close()
    assert [line["start"] for path in ("p.jsonl.1", "p.jsonl") for line in lines(tmp_path / path)][-1] == 3


def test_a_place_that_cannot_be_opened_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "p.jsonl", tmp_path):
        with pytest.raises(OutputError, match="cannot be opened"):
            open_file(path)
