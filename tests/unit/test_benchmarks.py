"""The benchmarks' own tools: the form of a result, the page of all results, bytes and rounds of learning."""

import math
from importlib import import_module

import pytest
from marram.wire.codec.chain import Chain

from benchmarks import report
from benchmarks.__main__ import NAMES, main
from benchmarks.learning import CHAINS, PLAIN, cost
from benchmarks.report import Figure, Result, at_least, at_most
from benchmarks.traffic import traffic
from examples.shoulder import people


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(report, "RESULTS", path)
    return path


def result(name, *figures):
    return Result(f"Of {name}", f"python -m benchmarks {name}", "How `marram run` does it.", figures)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_measured_by_its_name(name):
    assert callable(import_module(f"benchmarks.{name}").measure)


def test_a_benchmark_that_is_none_is_named_with_those_that_are(capsys):
    assert main(["pipeline", "pipelines"]) == 1
    said = capsys.readouterr().err
    assert "pipelines" in said
    assert "training_step" in said


@pytest.mark.parametrize(
    ("figure", "row"),
    [
        (at_least("rate", 2.0, 1.0), "| rate | 2 | at least 1, held |"),
        (at_least("rate", 0.5, 1.0), "| rate | 0.5 | at least 1, **missed** |"),
        (at_most("size", 77.04, 75, " MiB"), "| size | 77 MiB | at most 75 MiB, **missed** |"),
        (at_most("size", 75.0, 75, " MiB"), "| size | 75 MiB | at most 75 MiB, held |"),
        (Figure("note", "as it is"), "| note | as it is |  |"),
        (Figure("chain `a|b`", "1"), "| chain `a\\|b` | 1 |  |"),
    ],
)
def test_a_figure_says_whether_its_limit_was_held(figure, row):
    assert row in result("x", figure).markdown().splitlines()


def test_the_page_keeps_what_was_not_measured_again_and_replaces_what_was(page):
    report.write({name: result(name, Figure("old", "1")).markdown() for name in ("one", "two")})
    report.write({"two": result("two", Figure("new", "2")).markdown()})
    lines = page.read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == ["## Of one", "## Of two"]
    assert [line for line in lines if line.startswith(("| old", "| new"))] == [
        "| old | 1 |  |",
        "| new | 2 |  |",
    ]


@pytest.mark.parametrize("setting", [PLAIN, CHAINS[0]], ids=lambda setting: setting.name)
def test_a_rounds_bytes_are_the_payloads_of_its_chains_and_some_hundred_more(setting):
    size = people.bundle().manifest.parameter_count
    found = traffic(setting, 12)
    up, update = (Chain.parse(spec).size(size) for spec in (setting.chain, setting.update_chain))
    assert len(found.up) == len(found.down) == 12
    assert all(0 < each - up < 600 for each in found.up)
    assert all(0 < each - update < 3000 for each in found.down)
    assert found.until(12) == (sum(found.up), sum(found.down))


def test_the_cost_is_that_of_the_median_seed():
    found = cost(CHAINS[0], (9.0, 2.0, 4.0))
    assert (found.up, found.down) == traffic(CHAINS[0], 80).until(4)


def test_a_target_that_most_seeds_miss_costs_without_end():
    assert cost(PLAIN, (3.0, math.inf, math.inf)).up == math.inf
