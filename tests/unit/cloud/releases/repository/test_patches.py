"""Patches beside a release: from those before it, for as long as they serve."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from marram.wire import patch
from marram_cloud.releases.repository import targets as contents

from tests.support.fleet_repository import Repository
from tests.support.releases import released


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "fleet")


def named(repository: Repository) -> set[str]:
    return {path for path in repository.layout.load().roles["shoulder"].signed.targets if patch.MARK in path}


def of(version: str, base: str) -> str:
    return patch.name(f"shoulder/{version}.marram", hashlib.sha256(released(base)).hexdigest())


def test_the_newest_release_has_patches_from_those_before_it(repository: Repository) -> None:
    for version in ("1", "2", "3", "4", "5"):
        repository.sign(released(version), version)
    assert named(repository) == {of("5", base) for base in ("2", "3", "4")}
    state = repository.layout.load()
    for base in ("2", "3", "4"):
        file = state.roles["shoulder"].signed.targets[of("5", base)]
        made = repository.layout.read_target(file)
        assert patch.apply(released(base), made, len(released("5"))) == released("5")


def test_what_has_nothing_in_common_gets_no_patch() -> None:
    assert contents.patches("m/1.onnx", bytes(range(256)) * 40, [hashlib.sha512(b"x").digest() * 200]) != []
    noise = b"".join(hashlib.sha512(b"%d" % number).digest() for number in range(500))
    other = b"".join(hashlib.sha512(b"o%d" % number).digest() for number in range(500))
    assert contents.patches("m/1.onnx", noise, [other]) == []


def test_a_release_that_is_taken_out_takes_its_patches_along(repository: Repository) -> None:
    for version in ("1", "2"):
        repository.sign(released(version), version)
    signed = repository.layout.load().roles["shoulder"].signed
    contents.withdraw(signed, contents.find(signed, "shoulder", "2", None))
    assert set(signed.targets) == {"shoulder/1.marram", "shoulder/1.marram.pieces"}
