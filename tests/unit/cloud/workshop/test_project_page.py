"""docs/bundles.md names every key of project.yaml."""

import msgspec
from marram_cloud.workshop.project import ProjectFile

from tests.support.pages import docs, rows


def test_the_page_has_every_key_of_a_project_and_says_which_are_needed():
    page = docs("bundles.md").prose.split("**project.yaml**")[1]
    found = {row[0]: row[1] for row in rows(page)}
    assert sorted(found) == sorted(field.name for field in msgspec.structs.fields(ProjectFile))
    for field in msgspec.structs.fields(ProjectFile):
        assert field.required == (found[field.name] == "needed"), field.name
