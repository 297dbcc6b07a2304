"""What must survive: files replaced as a whole, databases that are put aside when damaged, never lost."""

import os
import sqlite3
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.errors import StorageError
from marram.storage import clear_unfinished, hold_folder, open_database, replace_file, transaction

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT PRIMARY KEY, value BLOB)"


def put(database, name, value=b"v"):
    with transaction(database):
        database.execute("INSERT INTO things VALUES (?, ?)", (name, value))


def names(database):
    return [name for (name,) in database.execute("SELECT name FROM things ORDER BY name")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a database with some pages."""
    path = tmp_path_factory.mktemp("whole") / "a.db"
    database = open_database(path, SCHEMA)
    for number in range(40):
        put(database, f"thing{number}", os.urandom(400))
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path.read_bytes()


def test_what_was_committed_is_there_when_it_is_opened_again(tmp_path):
    database = open_database(tmp_path / "new" / "folder" / "a.db", SCHEMA)
    put(database, "one")
    database.close()
    assert names(open_database(tmp_path / "new" / "folder" / "a.db", SCHEMA)) == ["one"]


def test_a_transaction_is_whole_or_not_at_all():
    database = open_database(":memory:", SCHEMA)
    with pytest.raises(ZeroDivisionError), transaction(database):
        database.execute("INSERT INTO things VALUES ('half', NULL)")
        raise ZeroDivisionError
    assert names(database) == []
    put(database, "whole")
    assert names(database) == ["whole"]


def test_the_connection_serves_several_threads_one_at_a_time(tmp_path):
    database = open_database(tmp_path / "a.db", SCHEMA)
    thread = threading.Thread(target=put, args=(database, "other"))
    thread.start()
    thread.join()
    assert names(database) == ["other"]


@pytest.mark.parametrize("content", [b"hello " * 200, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_put_aside_whole_and_a_new_one_begun(tmp_path, content, caplog):
    path = tmp_path / "a.db"
    path.write_bytes(content)
    database = open_database(path, SCHEMA)
    put(database, "new")
    (aside,) = tmp_path.glob("a.db.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    assert names(database) == ["new"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_database_with_a_damaged_stretch_opens_or_is_put_aside(whole, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    path, content = folder / "a.db", bytearray(whole)
    where = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.sampled_from([1, 16, 600, 5000]))
    if data.draw(st.booleans()):
        content = content[:where]
    else:
        content[where : where + length] = data.draw(st.sampled_from([b"\0", b"\xff", b"\x5a"])) * length
    path.write_bytes(bytes(content))
    try:
        database = open_database(path, SCHEMA)
        put(database, "new")
    except StorageError as error:
        # Such as a version of the format that this SQLite does not know: nothing is touched then.
        assert "a.db: cannot be opened" in str(error)
        assert path.read_bytes() == bytes(content)
        return
    assert "new" in names(database)
    database.close()


@pytest.mark.parametrize("place", [18, 47])
def test_a_database_of_a_format_to_come_is_not_opened_and_not_touched(whole, tmp_path, place):
    """Bytes 18 and 47 of the head say which versions may write and read it (sqlite.org/fileformat2.html)."""
    content = bytearray(whole)
    content[place] = 0xFF
    (tmp_path / "a.db").write_bytes(content)
    with pytest.raises(StorageError, match=r"a\.db: cannot be opened: "):
        open_database(tmp_path / "a.db", SCHEMA)
    assert (tmp_path / "a.db").read_bytes() == content


@pytest.fixture
def large(tmp_path):
    """A database of 6 MiB, closed well, all of whose pages but the first two were then damaged."""
    path = tmp_path / "a.db"
    database = open_database(path, SCHEMA, durable=False)
    with transaction(database):
        rows = ((f"thing{number}", os.urandom(3000)) for number in range(2000))
        database.executemany("INSERT INTO things VALUES (?, ?)", rows)
    database.close()
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\x5a" * (path.stat().st_size - 2 * 4096))
    return path


def aside(path):
    return list(path.parent.glob("a.db.damaged-*"))


def test_damage_of_a_large_database_is_met_in_use_and_put_aside_at_the_next_start(large):
    database = open_database(large, SCHEMA)
    assert aside(large) == []  # it was not read as a whole
    with pytest.raises(StorageError, match="malformed"):
        put(database, "new")
    database.close()
    database = open_database(large, SCHEMA)
    put(database, "new")
    assert names(database) == ["new"]
    assert len([one for one in aside(large) if not one.name.endswith("-suspect")]) == 1
    database.close()
    assert names(open_database(large, SCHEMA)) == ["new"]


def test_a_large_database_is_checked_after_an_unclean_end(large):
    large.with_name("a.db-wal").write_bytes(b"left by a power cut")
    put(open_database(large, SCHEMA), "new")
    assert aside(large)


def test_a_place_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/sub: cannot be made: Not a directory"):
        open_database(tmp_path / "file" / "sub" / "a.db", SCHEMA)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StorageError, match=r"folder\.db: cannot be opened: unable to open database file"):
        open_database(tmp_path / "folder.db", SCHEMA)


def test_a_full_disk_is_a_storage_error_and_what_was_there_stays(tmp_path):
    database = open_database(tmp_path / "a.db", SCHEMA)
    put(database, "before")
    database.execute(f"PRAGMA max_page_count={database.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StorageError, match="state could not be written: database or disk is full"):
        put(database, "large", b"x" * 100_000)
    assert names(database) == ["before"]


def test_a_program_mistake_is_no_storage_error():
    database = open_database(":memory:", SCHEMA)
    put(database, "one")
    with pytest.raises(sqlite3.IntegrityError):
        put(database, "one")


def test_a_state_folder_has_one_user_at_a_time(tmp_path):
    folder = tmp_path / "new" / "state"
    with hold_folder(folder, "agent"), pytest.raises(StorageError, match="state: another agent uses this"):
        hold_folder(folder, "agent")
    hold_folder(folder, "agent").close()


def test_a_state_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/state: cannot be used as a state folder: Not a directory"):
        hold_folder(tmp_path / "file" / "state", "agent")


def test_a_file_is_replaced_as_a_whole(tmp_path):
    """Whoever looks meanwhile sees the old content or the new one."""
    path, seen, done = tmp_path / "a", set(), threading.Event()
    contents = {bytes([letter]) * 50_000 for letter in b"abcd"}
    replace_file(path, b"a" * 50_000)

    def look():
        while not done.is_set():
            seen.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20):
        for content in sorted(contents):
            replace_file(path, content)
    done.set()
    thread.join()
    assert seen <= contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_new_file_has_the_mode_that_was_asked_for_and_its_folder_is_made(tmp_path):
    replace_file(tmp_path / "new" / "key", b"secret", mode=0o600)
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        replace_file(tmp_path / "file" / "a", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder: cannot be written: Is a directory"):
        replace_file(tmp_path / "folder", b"x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_two_that_are_put_aside_at_once_are_both_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    for content in (b"first " * 200, b"second " * 200):
        (tmp_path / "a.db").write_bytes(content)
        open_database(tmp_path / "a.db", SCHEMA).close()
    assert sorted(path.read_bytes()[:5] for path in tmp_path.glob("a.db.damaged-*")) == [b"first", b"secon"]


def test_what_cuts_left_of_files_that_were_being_replaced_is_cleared_and_nothing_else(tmp_path, monkeypatch):
    kept, inner = tmp_path / "state.json", tmp_path / "metadata"
    replace_file(kept, b"whole")
    with monkeypatch.context() as cut:

        def power_cut(*_):
            raise KeyboardInterrupt

        cut.setattr(os, "fsync", power_cut)
        for path in (kept, inner / "root.json"):
            with pytest.raises(KeyboardInterrupt):
                replace_file(path, b"half")
    assert len(list(tmp_path.rglob("*.new"))) == 2
    clear_unfinished(tmp_path)
    assert sorted(tmp_path.rglob("*")) == [inner, kept]
    assert kept.read_bytes() == b"whole"
    clear_unfinished(tmp_path / "nowhere")
