"""Who holds the network, the repository's server, an online key or the disk: what none of them can do."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from marram.releases import state as states
from marram.releases.https import HttpsTransport
from marram.releases.transport import TransportError
from marram.releases.tuf_client import Client, UntrustedError
from marram.wire import cbor
from marram.wire.messages import Block
from marram.wire.rollout import Plan, Rollout
from marram_cloud.releases.repository.keys import read_key
from marram_cloud.releases.repository.layout import encode

from tests.support.fleet_repository import Repository
from tests.support.releases import released
from tests.support.updates import Rig, rig

DAY = 86400.0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "fleet")


def refuses(device: Rig, words: str) -> None:
    """It looks, says so, and what runs goes on."""
    before, device.updater.problem = device.running, ""
    device.check()
    device.until(f"a refusal: {words}", lambda: words in device.updater.problem)
    assert device.running == before
    assert device.inference.failed == 0


def committed(device: Rig, version: str) -> None:
    device.check()
    device.until(version, lambda: device.running == f"shoulder/{version}.marram")
    device.until("confirmed", lambda: bool(device.installation.machine.running.confirmed))


def copy(repository: Repository, to: Path) -> Path:
    return Path(shutil.copytree(repository.path / "metadata", to))


def bring_back(repository: Repository, saved: Path) -> None:
    shutil.rmtree(repository.path / "metadata")
    shutil.copytree(saved, repository.path / "metadata")


def test_rollback_older_metadata_is_not_believed(repository: Repository, tmp_path: Path) -> None:
    """The server shows yesterday's repository, in which a release was not revoked yet."""
    repository.release(released("1"), "1")
    old = copy(repository, tmp_path / "old")
    repository.revoke("1")
    with rig(tmp_path / "device", repository) as device:
        device.until("a look", lambda: device.updater.checked > 0)
        bring_back(repository, old)
        refuses(device, "version")
        assert device.running == ""


def test_rollback_an_older_release_is_not_run_again(repository: Repository, tmp_path: Path) -> None:
    """Even when whoever holds the roll-out's key asks for it, unless the newer one is revoked."""
    for version in ("1", "2"):
        repository.sign(released(version), version)
    repository.promote("2")
    with rig(tmp_path / "device", repository) as device:
        committed(device, "2")
        rollout(repository, lambda old: msgspec.structs.replace(old, plans=(plan(repository, "1"),)))
        refuses(device, "is older")


def test_freeze_what_has_expired_is_not_believed(tmp_path: Path) -> None:
    """The server shows the same repository for ever."""
    repository = Repository.create(tmp_path / "fleet", now=datetime.now(UTC) - timedelta(days=40))
    with rig(tmp_path / "device", repository) as device:
        refuses(device, "expired")
        assert device.updater.checked == 0


def test_mix_and_match_files_of_two_moments_are_not_believed(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    metadata = repository.path / "metadata"
    old = max(metadata.glob("*.rollout.json"), key=lambda path: int(path.name.split(".")[0]))
    content = old.read_bytes()
    repository.release(released("2"), "2")
    new = max(metadata.glob("*.rollout.json"), key=lambda path: int(path.name.split(".")[0]))
    new.write_bytes(content)
    with rig(tmp_path / "device", repository) as device:
        refuses(device, "does not match")


def test_wrong_software_the_file_of_another_model_is_not_run(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "fleet", models=("shoulder", "knee"))
    import msgspec as m

    from tests.support.windows import SHOULDER, bundle

    source = bundle(SHOULDER)
    from marram.bundle.file import encode

    knee = encode(m.structs.replace(source.manifest, name="knee", version="1"), dict(source.members))
    repository.sign(knee, "1", model="knee")
    content = hashlib.sha256(knee).hexdigest()
    repository.release(released("1"), "1")
    rollout(
        repository,
        lambda old: msgspec.structs.replace(old, plans=(Plan("knee/1.marram", content, "s", 1.0),)),
    )
    with rig(tmp_path / "device", repository) as device:
        refuses(device, "file of something else")


def test_stolen_online_keys_cannot_make_a_release(repository: Repository, tmp_path: Path) -> None:
    """Whoever holds them signs a target of the model's name in the only role that they can sign."""
    repository.release(released("1"), "1")
    evil = released("666")
    with repository.layout.lock():
        now = datetime.now(UTC).replace(microsecond=0)
        custom = {"model": "shoulder", "version": "666", "kind": "marram", "sequence": 666}
        repository.online.put_target(repository.layout.load(), "shoulder/666.marram", evil, custom, now)
    sha256 = hashlib.sha256(evil).hexdigest()
    rollout(
        repository,
        lambda old: msgspec.structs.replace(old, plans=(Plan("shoulder/666.marram", sha256, "s", 1.0),)),
    )
    with rig(tmp_path / "device", repository) as device:
        refuses(device, "did not sign")


def test_a_signed_name_with_other_bytes_is_not_run(repository: Repository, tmp_path: Path) -> None:
    """The roll-out names a signed target, with the digest of something else."""
    repository.release(released("1"), "1")
    other = hashlib.sha256(b"x").hexdigest()
    rollout(
        repository,
        lambda old: msgspec.structs.replace(old, plans=(Plan("shoulder/1.marram", other, "s", 1.0),)),
    )
    with rig(tmp_path / "device", repository) as device:
        refuses(device, "did not sign")


def test_a_stolen_aggregator_key_cannot_change_a_release(repository: Repository, tmp_path: Path) -> None:
    """Whoever answers for the aggregator sends other bytes of the right length."""
    repository.release(released("1"), "1")
    device = Rig(tmp_path / "device", repository)

    def spoil(fetch: object, payload: bytes) -> tuple[bytes, ...]:
        block = cbor.unpack(payload, Block)
        if fetch.file.endswith(".1.marram") and block.data:  # type: ignore[attr-defined]
            block = msgspec.structs.replace(block, data=bytes(len(block.data)))
        return (cbor.pack(block),)

    device.link.spoil = spoil
    device.start()
    try:
        refuses(device, "other bytes than those that were signed")
        assert device.told[0] == "fetching"
        device.link.spoil = lambda fetch, payload: (payload,)
        committed(device, "1")
    finally:
        device.stop()


def test_another_bundle_in_the_slot_does_not_run(repository: Repository, tmp_path: Path) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        committed(device, "1")
    slot = tmp_path / "device" / "releases" / "a"
    slot.write_bytes(released("666"))
    again = device.again()
    try:
        assert again.inference.model.name == "shoulder 0"
        # The real one is fetched once more.
        committed(again, "1")
        assert again.inference.model.name == "shoulder 1"
    finally:
        again.stop()


def test_another_bundle_and_another_word_beside_it_do_not_run_for_long(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        committed(device, "1")
    folder = tmp_path / "device" / "releases"
    evil = released("666")
    (folder / "a").write_bytes(evil)
    state = states.load(folder / "state.json")
    assert state.committed is not None
    release = msgspec.structs.replace(state.committed.release, sha256=hashlib.sha256(evil).hexdigest())
    states.save(
        folder / "state.json",
        msgspec.structs.replace(state, committed=msgspec.structs.replace(state.committed, release=release)),
    )
    again = device.again()
    try:
        again.until("the look", lambda: again.inference.model.name != "shoulder 666")
        again.until("why", lambda: any("do not sign" in one.reason for one in again.link.reports))
    finally:
        again.stop()


def test_a_clock_in_1970_does_not_make_old_metadata_good(tmp_path: Path) -> None:
    """A device without a clock of its own: it knows from what was signed that it is later."""
    repository = Repository.create(tmp_path / "fleet", now=datetime.now(UTC) - timedelta(days=180))
    old = copy(repository, tmp_path / "old")
    repository.rotate_online()
    with rig(tmp_path / "device", repository) as device:
        device.until("a look", lambda: device.updater.checked > 0)
    # It forgets what it saw, and is shown what was there half a year ago, before the keys were changed.
    shutil.rmtree(tmp_path / "device" / "releases" / "metadata")
    bring_back(repository, old)
    again = Rig(tmp_path / "device", repository, clock=lambda: 0.0)
    again.start()
    try:
        refuses(again, "expired")
    finally:
        again.stop()


def test_a_clock_that_stays_behind_holds_nothing_up(repository: Repository, tmp_path: Path) -> None:
    """Whatever waits for a time goes on, although the clock is far behind what was signed."""
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository, clock=lambda: time.time() - 10 * 365 * DAY) as device:
        committed(device, "1")


def test_a_clock_in_2099_stops_updates_and_nothing_else_and_does_no_lasting_harm(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    ahead = [73 * 365 * DAY]
    with rig(tmp_path / "device", repository, clock=lambda: time.time() + ahead[0]) as device:
        refuses(device, "this device's clock is wrong")
        # Somebody sets it right; the daemon goes on as it is.
        ahead[0] = 0.0
        committed(device, "1")


def test_a_stolen_timestamp_key_puts_the_time_ahead_only_until_it_is_replaced(
    repository: Repository, tmp_path: Path
) -> None:
    repository.release(released("1"), "1")
    with rig(tmp_path / "device", repository) as device:
        committed(device, "1")
        forge_time(repository, datetime(2099, 1, 1, tzinfo=UTC))
        device.check()
        device.until("2099", lambda: device.installation.machine.state.floor > time.time() + 365 * DAY)
        refuses(device, "expired")
        repository.rotate_online()
        repository.release(released("2"), "2")
        committed(device, "2")
        assert abs(device.installation.machine.state.floor - time.time()) < DAY


def forge_time(repository: Repository, moment: datetime) -> None:
    """A timestamp that says it was signed then, and is good for long."""
    layout = repository.layout
    forged = layout.load().timestamp
    forged.signed.version += 1
    forged.signed.expires = moment + timedelta(days=100)
    forged.signed.unrecognized_fields["marram_time"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    forged.sign(read_key(repository.folder / "online" / "timestamp-1.pem"))
    layout.write(layout.timestamp, encode(forged))


# ---- servers that never end


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answers every connection by ``serve``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                serve(connection)
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def client(repository: Repository, folder: Path, url: str) -> Client:
    transport = HttpsTransport(patience=1.0, least_rate=50_000)
    root = repository.root.read_bytes()
    return Client(folder, f"{url}metadata/", f"{url}targets/", transport, time.time(), root)


def test_endless_data_is_cut_off(repository: Repository, tmp_path: Path) -> None:
    sent = []

    def endless(connection: socket.socket) -> None:
        while len(sent) < 4000:
            connection.sendall(bytes(16_384))
            sent.append(16_384)

    with server(endless) as url, pytest.raises(UntrustedError, match="more than"):
        client(repository, tmp_path / "metadata", url).refresh()
    assert sum(sent) < 16 << 20


def test_slow_retrieval_is_given_up(repository: Repository, tmp_path: Path) -> None:
    stop = threading.Event()

    def drips(connection: socket.socket) -> None:
        while not stop.wait(0.05):
            connection.sendall(b"{")

    with server(drips) as url:
        threading.Timer(40.0, stop.set).start()
        with pytest.raises(TransportError, match="given up"):
            client(repository, tmp_path / "metadata", url).refresh()
        stop.set()


def test_a_server_that_says_nothing_is_given_up(repository: Repository, tmp_path: Path) -> None:
    stop = threading.Event()
    with server(lambda connection: stop.wait(40) and None) as url:
        with pytest.raises(TransportError):
            client(repository, tmp_path / "metadata", url).refresh()
        stop.set()


# ---- what whoever holds the online keys can sign


def plan(repository: Repository, version: str) -> Plan:
    return Plan(f"shoulder/{version}.marram", hashlib.sha256(released(version)).hexdigest(), "salt", 1.0)


def rollout(repository: Repository, change: Callable[[Rollout], Rollout]) -> None:
    """Sign any roll-out document."""
    with repository.layout.lock():
        content = msgspec.json.encode(change(Rollout("shoulder")))
        now = datetime.now(UTC).replace(microsecond=0)
        custom: dict[str, str] = {}
        repository.online.put_target(repository.layout.load(), "rollout/shoulder.json", content, custom, now)
