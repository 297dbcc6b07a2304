"""Blocks of files: what is answered to whom, in which order, and what nobody gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marram.errors import WireError
from marram.wire import cbor
from marram.wire.messages import Block, Fetch
from marram_cloud.releases.online.blocks import BlockServer, locate, packed, read_request, runs

MAX = 1 << 20


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "repository"
    for name in ("metadata", "targets/m", "staged"):
        (root / name).mkdir(parents=True)
    (root / "metadata" / "timestamp.json").write_bytes(b"t" * 100)
    (root / "targets" / "m" / "big.onnx").write_bytes(bytes(range(250)) * 400)
    (root / "targets" / "empty").write_bytes(b"")
    (root / "staged" / "m.json").write_bytes(b"secret")
    (tmp_path / "key.pem").write_bytes(b"secret")
    (root / "metadata" / "link.json").symlink_to(tmp_path / "key.pem")
    (root / "targets" / "out").symlink_to(tmp_path)
    return root


def fetch(file="targets/m/big.onnx", block=1000, first=0, wanted=b"\xff" * 13, limit=4000, number=1):
    return Fetch(number, file, block, first, wanted, limit)


def answers(server):
    found = []
    while (one := server.next()) is not None:
        found.append(one)
    return found


def put_together(blocks, size):
    content, seen = bytearray(size), 0
    for block in blocks:
        assert block.size == size
        content[block.offset : block.offset + len(block.data)] = block.data
        seen += len(block.data)
    return bytes(content), seen


@given(
    st.integers(1, 5000), st.integers(256, 900), st.integers(0, 8), st.binary(min_size=1, max_size=4),
    st.integers(256, 3000),
)  # fmt: skip
def test_exactly_what_is_wanted_comes_once_in_order_and_within_the_limit(size, block, first, wanted, limit):
    request = Fetch(1, "f", block, first, wanted, limit)
    found = list(runs(request, size, limit))
    bits = [first + 8 * at + bit for at, byte in enumerate(wanted) for bit in range(8) if byte >> bit & 1]
    expected = [at for one in bits for at in range(one * block, min((one + 1) * block, size))]
    assert [at for offset, length in found for at in range(offset, offset + length)] == expected
    assert all(length <= limit for _, length in found)
    if block <= limit:
        assert all(offset % block == 0 for offset, _ in found)


def test_a_file_comes_in_joined_blocks(folder):
    server = BlockServer(folder)
    assert server.ask("a", fetch(), MAX) is None
    found = [block for _, block in answers(server)]
    content, seen = put_together(found, 100_000)
    assert content == (folder / "targets" / "m" / "big.onnx").read_bytes()
    assert seen == 100_000
    assert len(found) == 25
    assert {len(block.data) for block in found} == {4000}


def test_the_links_own_limit_counts_too(folder):
    server = BlockServer(folder)
    server.ask("a", fetch(limit=1 << 20), 2200)
    blocks = [block for _, block in answers(server)]
    assert {len(block.data) for block in blocks} == {2000}
    assert all(len(packed(block)) <= 2200 for block in blocks)


def test_an_empty_file_is_one_empty_answer(folder):
    server = BlockServer(folder)
    server.ask("a", fetch("targets/empty"), MAX)
    assert answers(server) == [("a", Block(1, 0, 0, b""))]


@pytest.mark.parametrize(
    "file",
    [
        "metadata/2.root.json", "staged/m.json", "lock", "metadata", "targets/m", "metadata/",
        "../key.pem", "metadata/../staged/m.json", "metadata/../../key.pem", "/etc/passwd", "targets//m",
        "metadata/./timestamp.json", "metadata/link.json", "targets/out/key.pem", "metadata/\0", "targets/.x",
        "metadata\\timestamp.json", "%2e%2e/key.pem", "metadata/" + "a" * 280,
    ],
)  # fmt: skip
def test_nothing_else_than_what_is_served_can_be_fetched(folder, file):
    server = BlockServer(folder)
    assert server.ask("a", fetch(file), MAX) == Block(1, 0, 0, b"", missing=True)
    assert answers(server) == []


@given(
    st.lists(
        st.sampled_from(["..", ".", "metadata", "targets", "staged", "m", "out", "key.pem", ""]), max_size=6
    )
)
def test_no_path_leads_out(parts):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "repository"
        (root / "metadata").mkdir(parents=True)
        (root / "staged").mkdir()
        (root / "staged" / "m").write_bytes(b"")
        (Path(name) / "key.pem").write_bytes(b"")
        assert locate(root, "/".join(parts)) is None


def test_devices_take_turns(folder):
    server = BlockServer(folder)
    for name in ("a", "b"):
        server.ask(name, fetch(), MAX)
    server.ask("c", fetch("metadata/timestamp.json"), MAX)
    order = [device for device, _ in answers(server)]
    assert order[:5] == ["a", "b", "c", "a", "b"]
    assert order.count("a") == order.count("b") == 25


def test_a_newer_request_takes_the_place_of_the_older_one(folder):
    server = BlockServer(folder)
    server.ask("a", fetch(number=1), MAX)
    server.next()
    server.ask("a", fetch(number=2, wanted=b"\x01"), MAX)
    assert [block.id for _, block in answers(server)] == [2]


def test_so_many_answers_and_no_more_for_one_request(folder):
    server = BlockServer(folder)
    server.ask("a", fetch(limit=1000), MAX)
    assert len(answers(server)) == 64


def test_a_file_that_goes_away_ends_the_answer(folder):
    server = BlockServer(folder)
    server.ask("a", fetch(), MAX)
    server.next()
    (folder / "targets" / "m" / "big.onnx").write_bytes(b"other")
    assert answers(server) == []


@pytest.mark.parametrize(
    "payload", [b"", b"garbage", b"\xa0", b"x" * 20_000, cbor.pack(fetch()) + b"\0", cbor.pack(fetch())[:-1]]
)
def test_a_request_that_is_none_is_refused(payload):
    with pytest.raises(WireError):
        read_request(payload)
