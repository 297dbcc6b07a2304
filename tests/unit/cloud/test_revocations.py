"""The file with the list of revoked certificates: seen when it changes, kept in force when it is spoilt."""

import logging

import pytest
from marram.storage import replace_file
from marram_cloud.enrolment import revocations
from marram_cloud.revocations import RevocationFile

from tests.support.identities import fleet, stranger


@pytest.fixture
def path(tmp_path):
    replace_file(tmp_path / "ca.crl", made(1))
    return tmp_path / "ca.crl"


def made(number, serials=(), issuer=None, now=1.79e9):
    return revocations.make(issuer or fleet(), [(serial, now) for serial in serials], number, now)


def test_a_list_is_news_once_and_again_when_the_file_is_another(path):
    file = RevocationFile(path, fleet().certificate)
    assert file.news().number == 1
    assert file.news() is None
    replace_file(path, made(2, [7]))
    assert file.news().serials == {7}
    assert file.news() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", made(9, issuer=stranger()), None],
    ids=["empty", "garbage", "stranger", "gone"],
)
def test_what_cannot_be_read_is_told_once_and_is_no_news(path, caplog, content):
    file = RevocationFile(path, fleet().certificate)
    file.news()
    if content is None:
        path.unlink()
    else:
        replace_file(path, content)
    assert [file.news() for _ in range(3)] == [None] * 3
    assert [record.message.count("stays in force") for record in caplog.records] == [1]
    replace_file(path, made(3))
    assert file.news().number == 3


def test_a_list_that_is_overdue_is_honoured_with_a_warning(path, caplog):
    caplog.set_level(logging.WARNING)
    replace_file(path, made(4, [7], now=1.6e9))
    assert RevocationFile(path, fleet().certificate).news().serials == {7}
    assert "should have been replaced by" in caplog.text
