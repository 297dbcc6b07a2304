"""The table of what is supported says what the zoo found."""

from dataclasses import replace

from tests.support.pages import rows
from tests.zoo.found import Found, note, read
from tests.zoo.projects import ZOO
from tests.zoo.table import BEGIN, END, PAGE, table, written


def test_what_was_found_is_kept_and_told(tmp_path):
    note("temporal", tmp_path, parameters=1234, infer_bytes=2048, apart=2e-7, device=False)
    note("temporal", tmp_path, curve=0.004)
    note("temporal", tmp_path, device=True)
    found = read(tmp_path)
    temporal = next(one for one in ZOO if one.name == "temporal")
    unknown = replace(temporal, name="unheard-of")
    chaotic = {"temporal": Found(curve=0.2, along=4e-6)}
    assert "from where PyTorch stands: within 4e-06" in rows(table((temporal,), chaotic))[0][5]
    one, other = rows(table((temporal, unknown), found))
    assert one[1:] == [
        "classify", "1,234", "2 KiB", "2e-07", "within 0.4% of its first", "trained, released, runs in int8",
    ]  # fmt: skip
    assert other == ["`unheard-of`".strip("`"), "classify", "", "", "", "", ""]


def test_the_page_has_its_place_and_keeps_the_rest():
    page = PAGE.read_text()
    made = written(page, "| a |")
    assert f"{BEGIN}\n\n| a |\n\n{END}" in made
    assert written(made, "| b |") == written(page, "| b |")
    assert made.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert made.rpartition(END)[2] == page.rpartition(END)[2]
