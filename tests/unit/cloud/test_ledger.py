"""The ledger: what is in it after a transaction, what it forgets, and a damaged one."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from marram.errors import StorageError
from marram.storage import open_database
from marram.wire import certificates
from marram_cloud.aggregator import open_ledger
from marram_cloud.ledger import ledger as ledgers
from marram_cloud.ledger.ledger import Ledger, LedgerError

from tests.support.aggregator import INITIAL, NOW
from tests.support.identities import certified
from tests.support.service import Region
from tests.unit.cloud.test_config import settings_for


@pytest.fixture
def region():
    made = Region()
    for round in range(4):
        for name in made.names:
            made.hears(made.delta(name, np.full(24, 0.1 * round, np.float32)), name)
        made.waits(1.0)
    return made


def test_a_transaction_that_fails_leaves_nothing_behind(region):
    before = region.ledger.rounds()
    with pytest.raises(RuntimeError), region.ledger.transaction():
        region.ledger.close_round(4, NOW, 1, 1)
        region.ledger.revoke_device("device-1", NOW)
        raise RuntimeError
    assert region.ledger.rounds() == before
    assert not any(revoked for _, _, revoked in region.ledger.devices())


def test_a_device_that_is_not_there_cannot_be_revoked(region):
    with pytest.raises(LedgerError, match="no device 'nobody'"):
        region.ledger.revoke_device("nobody", NOW)


def test_a_device_that_is_enrolled_again_after_it_was_revoked_is_trusted_by_its_new_key_only(region):
    ledger = region.ledger
    old, new = certified("device", "device-1")[0], certified("device", "device-1b")[0]
    ledger.revoke_device("device-1", NOW)
    assert not ledger.trusts("device-1", NOW)
    ledger.add_device("device-1", new, NOW)
    assert ledger.trusts("device-1", NOW)
    assert ledger.device_by_key(certificates.key_id(old)).revoked
    assert not ledger.device_by_key(certificates.key_id(new)).revoked
    assert ("device-1", NOW, False) in ledger.devices()


def test_a_device_is_trusted_by_each_of_its_certificates_until_the_last_one_ends(region):
    ledger = region.ledger
    old, new = certified("device", "device-1")[0], certified("device", "device-1b")[0]
    ledger.add_device("device-1", new, NOW)
    for one in (old, new):
        found = ledger.device_by_key(certificates.key_id(one))
        assert (found.name, found.revoked) == ("device-1", False)
    end = max(one.not_valid_after_utc for one in (old, new)).timestamp()
    assert ledger.trusts("device-1", end)
    assert not ledger.trusts("device-1", end + 1)


def test_a_serial_number_can_be_revoked_before_its_certificate_is_known(region):
    ledger, certificate = region.ledger, certified("device", "device-1b")[0]
    ledger.revoke([certificate.serial_number], NOW)
    ledger.add_device("device-1", certificate, NOW)
    assert ledger.device_by_key(certificates.key_id(certificate)).revoked
    assert ledger.is_revoked(certificate)
    assert not ledger.is_revoked(certified("device", "device-1")[0])


# ---- a ledger of an older version

FORM_0 = """
CREATE TABLE devices (
  name TEXT PRIMARY KEY, key_id BLOB NOT NULL UNIQUE, certificate BLOB NOT NULL,
  enrolled REAL NOT NULL, revoked REAL, counter INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


@pytest.fixture
def old_ledger(tmp_path):
    """A configuration whose ledger was made before devices could have several certificates."""
    config = settings_for(tmp_path)
    config.state.mkdir()
    with closing(sqlite3.connect(config.state / "ledger.db")) as database:
        database.executescript(FORM_0)
        for name, revoked, counter in (("device-1", None, 7), ("device-2", NOW, 9)):
            certificate = certified("device", name)[0]
            database.execute(
                "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?)",
                (
                    name,
                    certificates.key_id(certificate),
                    certificates.der(certificate),
                    5.0,
                    revoked,
                    counter,
                ),
            )
        database.commit()
    return config


def test_a_ledger_of_an_older_version_keeps_devices_counters_and_revocations(old_ledger):
    for _ in range(2):
        ledger = open_ledger(old_ledger)
        assert ledger.devices() == [("device-1", 5.0, False), ("device-2", 5.0, True)]
        good, bad = (
            ledger.device_by_key(certificates.key_id(certified("device", name)[0]))
            for name in ("device-1", "device-2")
        )
        assert (good.name, good.revoked, good.counter) == ("device-1", False, 7)
        assert (bad.name, bad.revoked, bad.counter) == ("device-2", True, 9)
        ledger.database.close()


def test_a_ledger_that_cannot_be_changed_is_left_as_it_was(old_ledger):
    path = old_ledger.state / "ledger.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE devices SET certificate = x'00' WHERE name = 'device-2'")
        database.commit()
    with pytest.raises(StorageError, match="certificate of device 'device-2' in it is damaged"):
        open_ledger(old_ledger)
    with closing(sqlite3.connect(path)) as database:
        assert len(database.execute("SELECT key_id FROM devices").fetchall()) == 2


def test_a_ledger_of_a_newer_version_is_not_touched(tmp_path):
    config = settings_for(tmp_path)
    open_ledger(config).database.close()
    with closing(sqlite3.connect(config.state / "ledger.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="written by a newer Marram"):
        open_ledger(config)


@pytest.mark.parametrize("number", [-1, 0, 4, 1 << 60])
def test_an_open_round_is_given_later_numbers_only_and_none_that_no_offer_can_say(region, number):
    before = region.ledger.rounds()
    with pytest.raises(LedgerError, match="round 4 is open: expected a number above it"):
        region.ledger.skip_to(number)
    assert region.ledger.rounds() == before


def test_payloads_of_rounds_long_summed_are_forgotten_and_their_figures_are_not(region):
    ledger = region.ledger
    with pytest.raises(LedgerError, match="not kept"):
        ledger.delta_payload(0, "device-1")
    assert ledger.delta_payload(3, "device-1")
    deltas, size, before, after = ledger.round_figures(0)
    assert (deltas, len(before), len(after)) == (3, 3, 3)
    assert size > 0
    assert len(ledger.evaluations()[0]) == 3


def test_only_the_newest_version_keeps_what_the_next_step_needs(region):
    rows = region.disk.execute("SELECT version FROM versions WHERE exact IS NOT NULL").fetchall()
    assert rows == [(4,)]
    assert region.ledger.kept_versions() == [0, 1, 2, 3, 4]
    region.ledger.forget_versions(3)
    assert region.ledger.kept_versions() == [3, 4]
    with pytest.raises(LedgerError, match="version 1"):
        region.ledger.parameters(1)
    with pytest.raises(LedgerError, match="no version 77"):
        region.ledger.version_digest(77)


def test_refusals_are_added_up_by_reason(region):
    for device in ("a", "a", "b"):
        region.ledger.count_refusal(device, "malformed", "x", NOW)
    region.ledger.count_refusal("a", "revoked", "x", NOW)
    assert region.ledger.refusals() == {"malformed": 3, "revoked": 1}


def test_what_was_committed_is_there_after_a_restart(tmp_path):
    ledger = Ledger(open_database(tmp_path / "ledger.db", ledgers.SCHEMA))
    with ledger.transaction():
        ledger.add_version(0, INITIAL, INITIAL.astype(np.float64), np.ones(3), NOW)
    ledger.database.close()
    latest = Ledger(open_database(tmp_path / "ledger.db", ledgers.SCHEMA)).latest_version()
    np.testing.assert_array_equal(latest.parameters, INITIAL)
    assert latest.state.tolist() == [1, 1, 1]


def test_a_damaged_ledger_is_an_error_and_is_never_begun_anew(tmp_path):
    config = settings_for(tmp_path)
    open_ledger(config).database.close()
    path = config.state / "ledger.db"
    path.write_bytes(b"damaged" * 5000)
    with pytest.raises(StorageError, match="is damaged"):
        open_ledger(config)
    assert path.read_bytes() == b"damaged" * 5000
