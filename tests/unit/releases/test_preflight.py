"""The preflight: a candidate that crashes, starves or does not fit ends its own process with a reason."""

import threading
import time

import psutil
import pytest
from marram.releases.preflight import preflight

from tests.support.releases import another_family, infer, released
from tests.support.windows import HOST, SHOULDER

MEMORY = 512 << 20


@pytest.fixture
def candidate(tmp_path):
    return tmp_path / "candidate.marram"


def test_a_good_candidate_may_run(candidate):
    candidate.write_bytes(released("1"))
    assert preflight(candidate, SHOULDER, MEMORY) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (another_family, "another family"),
        (HOST.read_bytes, "another family"),
        (lambda: released("1", infer=infer("nan")), "not finite"),
        (lambda: released("1", infer=b"no program"), "cannot load"),
        (lambda: released("1")[:-100], "not a whole bundle"),
        (lambda: released("1", infer=infer("hungry")), "memory limit of 512 MiB"),
    ],
    ids=["other rate", "other model", "nan", "no program", "cut", "memory"],
)
def test_a_bad_candidate_is_refused_with_the_reason(candidate, content, words):
    candidate.write_bytes(content())
    assert words in preflight(candidate, SHOULDER, MEMORY)


def test_the_same_hungry_program_is_fine_where_nothing_is_asked_of_it(candidate):
    candidate.write_bytes(released("1", infer=infer("fine")))
    assert preflight(candidate, SHOULDER, MEMORY) == ""


def test_a_limit_that_even_the_libraries_do_not_fit_is_a_reason_too(candidate):
    candidate.write_bytes(released("1"))
    assert "emory" in preflight(candidate, SHOULDER, 16 << 20)


def test_a_candidate_whose_process_dies_is_refused_with_the_signal(candidate):
    candidate.write_bytes(released("1"))
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(preflight(candidate, SHOULDER, MEMORY)))
    thread.start()
    while thread.is_alive() and not (found := children(str(candidate))):
        time.sleep(0.001)
    found[0].kill()
    thread.join()
    assert reasons == ["the candidate ended its process by signal 9"]


def children(argument):
    found = []
    for child in psutil.Process().children():
        try:
            if argument in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found
