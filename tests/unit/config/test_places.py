"""Every kind of mistake, planted in any valid configuration: said once, at its place, in words that help."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from marram.config.load import loads
from marram.config.problems import InvalidConfigError, Problem, dotted
from marram.config.schema import Agent
from marram.config.values import Place

from tests.support.configs import ROOT, Keys, Route, Style, Tree, at, configurations, keys, styles, write

PLACE = Place(ROOT)
common = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def load(text: str) -> Agent:
    return loads(text, Agent, "agent.yaml", PLACE)


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidConfigError) as caught:
        load(text)
    return caught.value.problems


def only_problem(
    tree: Tree, style: Style
) -> tuple[Problem, dict[Route, tuple[int, int]], dict[Route, tuple[int, int]]]:
    """The one problem of the written tree, and where keys and values stand."""
    written = write(tree, style)
    found = problems(written.text)
    assert len(found) == 1, found
    return found[0], written.key, written.value


def routes(tree: Tree, route: Route = ()) -> list[Route]:
    """All routes in a tree, without its root."""
    entries = tree.pairs if isinstance(tree, Keys) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for step, value in entries for found in ((*route, step), *routes(value, (*route, step)))]


def mappings(tree: Tree) -> list[Route]:
    """The routes of the structs: mappings whose keys the schema names."""
    free = ("channels", "columns")
    return [r for r in [(), *routes(tree)] if isinstance(at(tree, r), Keys) and (not r or r[-1] not in free)]


def here(problem: Problem) -> tuple[int, int]:
    return problem.line, problem.column


@common
@given(configurations(), styles())
def test_a_valid_configuration_loads_however_it_is_written(tree, style):
    text = write(tree, style).text
    assert load(text) == load(write(tree, Style(flow=lambda: True)).text)


@common
@given(configurations(), styles(), st.data())
def test_a_misspelt_key_is_named_at_the_key_with_the_nearest_valid_one(tree, style, data):
    mapping = data.draw(st.sampled_from([r for r in mappings(tree) if at(tree, r).pairs]))
    # "type" chooses what the other keys mean; without it that is not known.
    key = data.draw(
        st.sampled_from([k for k in at(tree, mapping).names() if k != "type" and len(k) > 3] or [None])
    )
    assume(key is not None)
    where = data.draw(st.integers(1, len(key) - 1))
    wrong = key[:where] + "zx" + key[where:]
    at(tree, mapping).pairs = [(wrong if name == key else name, v) for name, v in at(tree, mapping).pairs]
    problem, key_at, _ = only_problem(tree, style)
    assert here(problem) == key_at[(*mapping, wrong)]
    assert problem.path == (*mapping, wrong)
    assert problem.message == f"this key is not known; did you mean {key!r}?"


@common
@given(configurations(), styles(), st.data())
def test_a_key_that_stands_twice_is_reported_at_the_second_with_the_line_of_the_first(tree, style, data):
    mapping = data.draw(
        st.sampled_from(
            [r for r in [(), *routes(tree)] if isinstance(at(tree, r), Keys) and at(tree, r).pairs]
        )
    )
    key, value = data.draw(st.sampled_from(at(tree, mapping).pairs))
    first = write(tree, Style(style.indent, style.indented_lists))
    at(tree, mapping).pairs.append((key, value))
    problem, key_at, _ = only_problem(tree, Style(style.indent, style.indented_lists))
    assert here(problem) == key_at[(*mapping, key)]
    assert problem.message == f"this key stands twice, first at line {first.key[(*mapping, key)][0]}"


@common
@given(configurations(), styles(), st.sampled_from(["sensors", "model", "bundle", "name", "type"]))
def test_a_missing_key_is_reported_at_what_should_hold_it(tree, style, key):
    holder: Route = {"bundle": ("model",), "name": ("sensors", 0), "type": ("sensors", 0)}.get(key, ())
    at(tree, holder).remove(key)
    written = write(tree, style)
    (problem, *others) = problems(written.text)
    # Whatever names the nameless sensor as its source is a consequence, not told before the name is there.
    assert others == []
    place = written.key[holder] if holder == ("model",) else written.value[holder]
    assert here(problem) == place
    assert problem.path == (*holder, key)
    assert problem.message.startswith("this key is missing: expected ")


@common
@given(configurations(), styles(), st.data())
def test_a_value_of_the_wrong_kind_is_reported_at_the_value(tree, style, data):
    """A list for a scalar, a scalar for a list or a mapping."""
    free = [r for r in routes(tree) if r[-1] != "type"]
    route = data.draw(st.sampled_from(free))
    wrong: Tree = ["[]"] if isinstance(at(tree, route), str) else "5"
    holder = at(tree, route[:-1])
    if isinstance(holder, Keys):
        holder.put(route[-1], wrong)
    else:
        holder[route[-1]] = wrong
    problem, _, value_at = only_problem(tree, style)
    assert here(problem) == value_at[route]
    assert problem.path == route
    assert problem.message.startswith("expected ")
    assert ", found " in problem.message


BAD_VALUES = [
    (
        ("device", "log_level"),
        "infos",
        "expected one of debug, error, info, warning, found the text \"infos\"; did you mean 'info'?",
    ),
    (("device", "name"), "yes", 'found yes, which YAML reads as a boolean (put it in quotes: "yes")'),
    (("device", "name"), "-x", 'expected text such as "press-07" or "ward3.bed12", found the text "-x"'),
    (("device", "state"), "~nobody-of-that-name/x", "there is no home folder for ~nobody-of-that-name/x"),
    (("model", "threads"), "0", "expected a whole number from 1 to 256, found the number 0"),
    (("model", "threads"), "1.5", "expected a whole number from 1 to 256, found the number 1.5"),
    (
        ("model", "threads"),
        "010",
        "found the number 010, which YAML reads as octal: leave the leading zero out",
    ),
    (("model", "threads"), '"4"', 'found the text "4" (take the quotes away)'),
    (("model", "queue"), "9" * 5000, "expected a whole number from 1 to 1000000, found the number 999"),
    (("model", "bundle"), "nowhere.marram", "nowhere.marram does not exist"),
    (("model", "bundle"), "/", "/ is no file"),
    (("model", "bundle"), "a" * 5000, "cannot look at the file"),
    (("model", "bundle"), "5", "expected the path of a file, found the number 5"),
    (("model", "parameters"), "owm", "did you mean 'own'?"),
    (
        ("stream", "max_gap"),
        "0",
        "expected a duration such as 30s, 5m, 2h, 7d or a number of seconds above 0, found the number 0",
    ),
    (
        ("stream", "max_gap"),
        "5 minutes",
        "expected a duration such as 30s, 5m, 2h, 7d or a number of seconds",
    ),
    (("stream", "max_gap"), "-5s", "expected a duration"),
    (("stream", "max_gap"), "12:30", "expected a duration"),
    (("stream", "max_gap"), "9" * 400, "expected a duration"),
    (("stream", "max_gap"), "9" * 400 + "d", "expected a duration of at most 36525d"),
    (("stream", "missing"), "null", "found nothing"),
    (
        ("learning", "store", "max_bytes"),
        "12 apples",
        "expected a size such as 64MiB, 10MB or a number of bytes",
    ),
    (("learning", "store", "max_bytes"), "9" * 400 + "TB", "expected a size of less than 2^63 bytes"),
    (
        ("learning", "store", "max_bytes"),
        "0",
        "expected a size such as 64MiB, 10MB or a number of bytes above 0",
    ),
    (("learning", "governor", "max_cpu"), "101", "expected a number from 0 to 100, found the number 101"),
    (("learning", "governor", "max_cpu"), ".nan", "expected a number from 0 to 100, found the number .nan"),
    (("learning", "governor", "max_cpu"), "1e999", "expected a number from 0 to 100"),
    (
        ("learning", "governor", "on_battery"),
        "treu",
        "expected true or false, found the text \"treu\"; did you mean 'true'?",
    ),
    (("learning", "governor", "on_battery"), "!!bool maybe", "expected true or false, found maybe"),
    (("learning", "governor", "quiet_hours"), "22:00-06:00", 'expected a list, found the text "22:00-06:00"'),
    (("learning", "holdout"), "1", "expected a number of at least 0 and below 1, found the number 1"),
    (("labels", "mqtt", "broker"), "localhost", 'expected a broker address such as "mqtt://host:1883"'),
    (
        ("labels", "mqtt", "broker"),
        "mqtt://host:99999",
        'expected a broker address such as "mqtt://host:1883"',
    ),
    (("labels", "mqtt", "broker"), "mqtt://host:abc", 'expected a broker address such as "mqtt://host:1883"'),
    (("labels", "mqtt", "broker"), "'mqtt://[::1'", 'expected a broker address such as "mqtt://host:1883"'),
    (("labels", "mqtt", "broker"), "'mqtt://a b'", 'expected a broker address such as "mqtt://host:1883"'),
    (("labels", "mqtt", "broker"), "mqtt://u:p@host", "may not hold a user name or password"),
    (("labels", "mqtt", "topic"), '"a/#/b"', "expected + to stand for a whole level and # for the last one"),
    (("labels", "mqtt", "topic"), '"a+/b"', "expected + to stand for a whole level and # for the last one"),
    (("labels", "mqtt", "topic"), '""', "expected a topic or topic filter"),
    (("sensors", 0, "name"), '"a b"', 'expected text such as "watch" or "press_07", found the text "a b"'),
    (
        ("sensors", 0, "type"),
        "hsot",
        ", stdin, found the text \"hsot\"; did you mean 'host'?",
    ),
    (("sensors", 0, "rate"), "0", "expected a number above 0 and of at most 100, found the number 0"),
    (
        ("sensors", 1, "speed"),
        "fast",
        'expected one of max, realtime or a number above 0, found the text "fast"',
    ),
    (("sensors", 1, "delimiter"), '"/"', 'expected one of "\\t", ",", ";", found the text "/"'),
    (("sensors", 1, "speed"), "realtim", "did you mean 'realtime'?"),
    (("sensors", 2, "qos"), "3", "expected one of 0, 1, 2, found the number 3"),
    (("sensors", 2, "channels"), "[]", "expected at least one channel, found none"),
    (("sensors", 2, "channels"), "[a, a]", "expected different channels, found one twice"),
    (("sensors", 1, "name"), "own", "expected a name of its own, found 'own' a second time"),
    (("sensors", 1, "label"), "a", "expected a column of its own, found 'a', which is a channel too"),
    (("outputs", 0, "topic"), '"out/#"', "expected a topic without the wildcards"),
    (
        ("stream", "channels", "cpu", "source"),
        "nix.cpu",
        "expected a channel of one of the sensors own, tape, plant, found 'nix.cpu'",
    ),
    (("stream", "channels", "cpu", "min"), "5", "expected min below max, found 5 and 4"),
    (("stream", "channels", "cpu", "scale"), "0", "expected a number other than 0, found 0"),
]


def full() -> Keys:
    return keys(
        device=keys(name="one"),
        sensors=[
            keys(type="host", name="own", rate="2"),
            keys(type="csv", name="tape", path=str(ROOT / "README.md"), columns=keys(a="a")),
            keys(type="mqtt", name="plant", broker="mqtt://h", topic="t", channels=["a"]),
        ],
        model=keys(bundle=str(ROOT / "examples/host/host.marram")),
        stream=keys(channels=keys(cpu=keys(max="4"))),
        outputs=[keys(type="mqtt", broker="mqtt://h")],
        learning=keys(store=Keys(), governor=Keys()),
        labels=keys(mqtt=keys(broker="mqtt://h", topic="t")),
    )


@pytest.mark.parametrize(("route", "value", "words"), BAD_VALUES)
@settings(max_examples=5, deadline=None)
@given(styles())
def test_a_bad_value_is_reported_at_the_value_in_words_that_help(route, value, words, style):
    tree = full()
    at(tree, route[:-1]).put(route[-1], value)
    problem, _, value_at = only_problem(tree, style)
    assert here(problem) == value_at[route]
    assert problem.path == route
    assert words in problem.message


@common
@given(configurations(), styles(), st.data())
def test_all_mistakes_come_at_once_in_the_order_of_the_file(tree, style, data):
    wanted = []
    tree.put("device", keys(log_level="loud"))
    wanted.append(("device", "log_level"))
    tree.put("stream", keys(max_gap="soon", missing="drop"))
    wanted.append(("stream", "max_gap"))
    at(tree, ("model",)).put("colour", "red")
    wanted.append(("model", "colour"))
    at(tree, ("sensors",)).append(keys(type="host", name="another", rate="-1"))
    wanted.append(("sensors", len(at(tree, ("sensors",))) - 1, "rate"))
    found = problems(write(tree, style).text)
    assert {problem.path for problem in found} == set(wanted)
    assert [here(problem) for problem in found] == sorted(here(problem) for problem in found)


TEXTS = [
    ("a tab as indentation", "device:\n\tname: x\n", (2, 1), "YAML does not allow tabs for indentation"),
    (
        "a second document",
        "model: {}\n---\nsensors: []\n",
        (2, 1),
        "expected one YAML document, found a second one",
    ),
    ("an open quote", 'device:\n  name: "abc\n', (3, 1), "begins at line 2"),
    ("an open bracket", "sensors: [a, b\nmodel: {}\n", (2, 6), "begins at line 1"),
    ("a colon in a value", "device:\n  name: a: b\n", (2, 10), "not valid YAML"),
    ("a value that begins with @", "device:\n  name: @x\n", (2, 9), "put the value in quotes"),
    ("an alias without anchor", "device: *d\n", (1, 9), "alias *d has no anchor &d above it"),
    (
        "an alias of what it stands in",
        "device: &d\n  name: *d\n",
        (2, 9),
        "alias *d stands inside its own anchor",
    ),
    ("a list as key", "? [a]\n: 1\n", (1, 3), "expected a name as key, found a list or a mapping"),
    ("a tag of Python's", "device: !!python/object:os.system {}\n", (1, 9), "is not allowed here"),
    ("a control character", "device:\n  name: a\x07b\n", (2, 10), "expected printable text"),
    (
        "a control character after old line ends",
        "device:\r  name: a\x07b\r",
        (2, 10),
        "expected printable text",
    ),
    ("no mapping", "hello\n", (1, 1), 'expected a mapping (key: value), found the text "hello"'),
    (
        "a merge of a number",
        "model:\n  <<: 5\n  bundle: x\n",
        (2, 7),
        "expected a mapping to merge, found the number 5",
    ),
]


@pytest.mark.parametrize(("text", "place", "words"), [pytest.param(*row[1:], id=row[0]) for row in TEXTS])
def test_text_that_is_no_configuration_is_reported_with_its_place(text, place, words):
    assert any(here(problem) == place and words in problem.message for problem in problems(text))


@given(st.integers(1, 80), st.booleans())
@settings(max_examples=30, deadline=None)
def test_nesting_beyond_the_limit_is_refused_where_it_goes_too_deep(depth, flow):
    text = (
        "x: " + "[" * depth + "]" * depth
        if flow
        else "x:" + "".join(f"\n{' ' * n}y:" for n in range(1, depth + 1))
    )
    (too_deep,) = [p for p in problems(text) if "nested" in p.message] or [None]
    if depth < 64:
        assert too_deep is None
    else:
        assert here(too_deep) == ((1, 67) if flow else (65, 65))


ALIASES = [
    (
        "doubled",
        "a0: &a0 {name: x}\n"
        + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30))
        + "device: *a29\n",
        "expected at most 100000 values, found more",
    ),
    (
        "in a row",
        "a0: &a0 {name: x}\n"
        + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 3000))
        + "device: *a2999\n",
        "nested more than 64 levels deep",
    ),
    (
        "merged over and over",
        "a: &a {"
        + ", ".join(f"k{n}: 1" for n in range(5000))
        + "}\ndevice: {<<: ["
        + "*a, " * 20000
        + "]}\n",
        "expected at most 100000 values, found more",
    ),
]


@pytest.mark.parametrize(("text", "words"), [pytest.param(*row[1:], id=row[0]) for row in ALIASES])
def test_aliases_that_multiply_are_refused(text, words):
    assert any(words in problem.message for problem in problems("sensors: [{type: host, name: h}]\n" + text))


def test_the_same_section_by_alias_and_by_merge_is_as_if_it_stood_there():
    text = (
        "sensors: [&s {type: host, name: a, rate: 5}, {<<: *s, name: b}]\n"
        f"model: {{bundle: {ROOT / 'examples/host/host.marram'}}}\n"
    )
    first, second = load(text).sensors
    assert (first.name, second.name, second.rate) == ("a", "b", 5)


def test_thousands_of_mistakes_are_shown_in_part_and_counted():
    with pytest.raises(InvalidConfigError) as caught:
        load("".join(f"key{n}: 1\n" for n in range(20_000)))
    assert "and 19902 more" in str(caught.value)
    assert len(str(caught.value)) < 100_000


@common
@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                "sensors",
                ":",
                " ",
                "\n",
                "- ",
                "[",
                "]",
                "{",
                "}",
                "&a",
                "*a",
                "<<",
                "type",
                "csv",
                "'",
                '"',
                "!!",
                "~",
                "1",
            ]
        ),
        max_size=40,
    ).map("".join)
)
def test_any_text_at_all_is_refused_with_a_place_and_never_a_traceback(text):
    for problem in problems(text):
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message


@common
@given(configurations(), styles(), st.data())
def test_a_spoilt_character_anywhere_gives_a_configuration_or_problems_within_the_file(tree, style, data):
    text = write(tree, style).text
    where = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:where] + data.draw(st.characters(codec="utf-8")) + text[where + 1 :]
    try:
        load(spoilt)
    except InvalidConfigError as error:
        assert all(
            1 <= problem.line <= spoilt.count("\n") + spoilt.count("\r") + 3 for problem in error.problems
        )


def test_the_report_shows_file_line_column_path_and_the_line_with_a_mark():
    with pytest.raises(InvalidConfigError) as caught:
        load("sensors:\n  - {type: host, name: h, rate: 0}\nmodel: {bundle: examples/host/host.marram}\n")
    assert str(caught.value) == (
        "agent.yaml:2:33: sensors[0].rate: expected a number above 0 and of at most 100, found the number 0\n"
        "    2 |   - {type: host, name: h, rate: 0}\n"
        "      |                                 ^"
    )


def test_what_a_terminal_would_obey_is_not_printed():
    with pytest.raises(InvalidConfigError) as caught:
        load('"\\e[31mred\\nx": 1\ndevice: {log_level: "\\e[2J"}\n')
    assert "\x1b" not in str(caught.value)
    assert '"\\x1b[31mred\\nx"' in str(caught.value)


@pytest.mark.parametrize(("path", "text"), [(("a", 0, "b"), "a[0].b"), (("a b", "c"), '"a b".c'), ((), "")])
def test_a_path_is_written_as_people_say_it(path, text):
    assert dotted(path) == text
