"""The doctor as a whole: checks found and guarded, the words, the exit status."""

from __future__ import annotations

import json
import sys
import types

import pytest
from marram.doctor import examine as examining
from marram.doctor.examine import DoctorError, examine, exit_status, known, text
from marram.doctor.finding import Severity, error, note, ok, warning

from tests.support.cli import marram
from tests.support.configs import HOST_BUNDLE
from tests.support.pages import docs
from tests.unit.doctor.test_machine_checks import machine


def stand_in(monkeypatch, **checks):
    """The checks are these functions."""
    names = []
    for name, check in checks.items():
        module = types.ModuleType(f"stand_in_{name}")
        module.check = check
        monkeypatch.setitem(sys.modules, module.__name__, module)
        names.append((name, module.__name__))
    monkeypatch.setattr(examining, "known", lambda: names)


def test_a_check_that_breaks_is_reported_with_what_it_had_found_and_the_others_go_on(tmp_path, monkeypatch):
    def breaks(_):
        yield ok("first", "fine")
        raise ZeroDivisionError("oh")

    stand_in(monkeypatch, bad=breaks, good=lambda _: [note("b", "c")])
    bad, good = examine(machine(tmp_path))
    assert [one.severity for one in bad.findings] == [Severity.OK, Severity.ERROR]
    assert "the check itself broke: ZeroDivisionError: oh" in bad.findings[1].found
    assert len(good.findings) == 1


def test_a_check_whose_module_cannot_be_imported_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(examining, "known", lambda: [("gone", "no_such_module_at_all")])
    [result] = examine(machine(tmp_path))
    assert "ModuleNotFoundError" in result.findings[0].found


def test_only_what_is_asked_for_is_examined_and_a_stranger_is_refused(tmp_path):
    assert [one.check for one in examine(machine(tmp_path), ["userland", "clock"])] == ["clock", "userland"]
    with pytest.raises(
        DoctorError, match="there is no check 'brain'; there are: configuration, agent, clock"
    ):
        list(examine(machine(tmp_path), ["brain"]))


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([], 0),
        ([ok("a", "b"), note("a", "b")], 0),
        ([warning("a", "b", "c")], 1),
        ([error("a", "b", "c"), ok("", "")], 2),
    ],
)
def test_the_exit_status_is_that_of_the_worst_finding(tmp_path, monkeypatch, findings, status):
    stand_in(monkeypatch, one=lambda _: findings)
    assert exit_status(examining.worst(examine(machine(tmp_path)))) == status


def test_every_check_has_a_title_and_what_is_wrong_says_what_to_do(tmp_path):
    for name, module in known():
        assert sys.modules.get(module) or __import__(module)
        assert sys.modules[module].__doc__, name
    assert "-> do it" in text(examining.Result("x", (warning("a", "b", "do it"),)))


def test_the_page_has_every_check():
    assert {row[0] for row in docs("operating.md").table("## What is wrong: `marram doctor`")} == {
        name for name, _ in known()
    }


def test_the_command_says_it_in_words_and_in_json(tmp_path):
    path = tmp_path / "marram.yaml"
    path.write_text(
        f"device: {{state: state}}\nsensors: [{{type: host, name: host}}]\nmodel: {{bundle: {HOST_BUNDLE}}}\n"
    )
    done = marram("doctor", "configuration", "disk", "-c", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok      configuration ")
    path.write_text("sensors: 3\n")
    done = marram("doctor", "--json", "configuration", "-c", path)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["severity"]) == (2, "error")
    assert answer["findings"][0]["check"] == "configuration"
    assert "marram.yaml:1:10" in answer["findings"][0]["found"]
