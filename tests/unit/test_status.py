"""The status as lines for a terminal."""

import pytest
from marram.status import text

ANSWER = {
    "device": "press-07",
    "uptime": 5.0,
    "memory": {"pss": 2**25, "rss": 2**25},
    "model": {"name": "press 0", "runtime": None, "why": None},
    "windows": {
        "predicted": 3, "per_second": 1.0, "waiting": 0, "dropped": 0, "failed": 0,
        "latency_us": {"p50": 20.0, "p99": 30.0},
    },
    "last": None,
    "stream": {"unknown_labels": 0},
    "store": {"windows": 7, "labelled": 0, "error": None},
    "release": {"running": None, "stage": "idle"},
    "sensors": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("unknown", "line"),
    [
        (0, "store     7 windows, 0 labelled"),
        (12, "store     7 windows, 0 labelled; 12 labels are unknown to the model"),
    ],
)
def test_labels_that_the_model_has_not_are_told_beside_the_windows_that_lack_theirs(unknown, line):
    assert line in text({**ANSWER, "stream": {"unknown_labels": unknown}}).splitlines()
