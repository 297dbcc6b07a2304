"""The release repository as python-tuf's own client sees it over HTTP, after all that can be done to it."""

import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from marram.errors import BundleError
from marram.storage import replace_file
from marram.wire import pieces
from marram_cloud.enrolment import authority
from marram_cloud.releases.repository import keys, layout
from marram_cloud.releases.repository.create import Quorum, Quorums
from marram_cloud.releases.repository.errors import RepositoryError
from marram_cloud.releases.repository.layout import Layout
from marram_cloud.releases.repository.offline import RoleKeys
from marram_cloud.releases.repository.rotation import rotate
from marram_cloud.releases.repository.targets import find
from tuf.api.exceptions import (
    DownloadError,
    ExpiredMetadataError,
    UnsignedMetadataError,
)
from tuf.api.exceptions import (
    RepositoryError as TufError,
)

from tests.support.releases import released
from tests.support.repository import MODEL, Client, Repository, served
from tests.support.sampled import drawn


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


@pytest.fixture
def client(repository):
    with served(repository.path) as url:
        yield Client(repository.folder / "client", url, repository.root)


class PowerCutError(Exception):
    """Raised in the place of a write."""


def cut_power(monkeypatch, after):
    """Let so many writes through, and none any more."""
    written = []

    def write(path, content, mode=0o644):
        if len(written) >= after:
            raise PowerCutError
        written.append(path)
        replace_file(path, content, mode)

    monkeypatch.setattr(layout, "replace_file", write)
    return written


def staged(repository):
    return sorted(repository.layout.load_staged())


def test_a_new_repository_verifies_and_holds_nothing(client):
    assert client.fetch("shoulder/1.onnx") is None


def test_a_release_is_served_with_the_index_of_its_pieces(repository, client):
    content = bytes(range(256)) * 300
    repository.released("1+r2", content)
    assert client.fetch("shoulder/1+r2.onnx") == content
    index = pieces.read_index(client.fetch("shoulder/1+r2.onnx.pieces"), len(content))
    assert index.digests[0] == pieces.short(content[: index.lengths[0]])
    digest = hashlib.sha256(content).hexdigest()
    assert (repository.path / "targets" / "shoulder" / f"{digest}.1+r2.onnx").read_bytes() == content
    assert client.look().get_targetinfo("shoulder/1+r2.onnx").custom == {
        "model": "shoulder", "version": "1+r2", "kind": "onnx", "sequence": 1,
    }  # fmt: skip


def test_the_sequence_rises_and_is_never_given_again(repository):
    repository.released("a", b"a")
    repository.released("b", b"b")
    repository.offline.withdraw(MODEL, "b", None, repository.signers("release"), repository.now)
    repository.online.publish(repository.now)
    repository.released("c", b"c")
    assert find(repository.layout.load().roles[MODEL].signed, MODEL, "c", None).sequence == 3


def test_what_was_taken_out_is_gone_and_its_version_is_never_signed_again(repository, client):
    repository.released("a", b"a")
    repository.offline.withdraw(MODEL, "a", None, repository.signers("release"), repository.now)
    repository.online.publish(repository.now)
    assert client.fetch("shoulder/a.onnx") is None
    assert client.fetch("shoulder/a.onnx.pieces") is None
    for content, words in ((b"other", "a version is for ever"), (b"a", "was taken out")):
        with pytest.raises(RepositoryError, match=words):
            repository.sign("a", content)


def test_a_version_is_for_ever(repository, client):
    repository.released("a", b"a")
    with pytest.raises(RepositoryError, match="a version is for ever"):
        repository.sign("a", b"b")
    with pytest.raises(RepositoryError, match="published already"):
        repository.sign("a", b"a")
    assert client.fetch("shoulder/a.onnx") == b"a"


@pytest.mark.parametrize("version", ["", "a/b", "..", ".a", "a b", "a" * 101, "a\n"])
def test_a_version_that_no_file_can_bear_is_refused(repository, version):
    with pytest.raises(RepositoryError, match="not usable"):
        repository.sign(version)


def test_a_bundle_is_signed_only_as_what_it_says_it_is(repository, client):
    with pytest.raises(RepositoryError, match="is shoulder 5 by its own manifest, not shoulder 6"):
        repository.sign("6", released("5"), "marram")
    with pytest.raises(BundleError):
        repository.sign("6", b"no bundle", "marram")
    repository.sign("5", released("5"), "marram")
    repository.online.publish(repository.now)
    assert client.fetch("shoulder/5.marram") == released("5")


def test_one_version_in_two_kinds_must_be_told_apart(repository):
    repository.sign("1", b"onnx", "onnx")
    repository.sign("1", b"tflite", "tflite")
    repository.online.publish(repository.now)
    targets = repository.layout.load().roles[MODEL].signed
    with pytest.raises(RepositoryError, match="--kind"):
        find(targets, MODEL, "1", None)
    assert find(targets, MODEL, "1", "tflite").path == "shoulder/1.tflite"


def test_what_is_staged_is_not_served_before_it_is_published(repository, client):
    repository.sign("1")
    assert client.fetch("shoulder/1.onnx") is None


@pytest.mark.parametrize("name", ["root", "targets", "snapshot", "timestamp", "rollout", "a/b", ""])
def test_a_model_cannot_have_the_name_of_a_role(repository, name):
    key = RoleKeys([signer.public_key for signer in repository.signers("release")])
    with pytest.raises(RepositoryError, match="not usable"):
        repository.offline.add_model(name, key, repository.signers(), repository.now)


def test_a_model_that_is_added_has_keys_of_its_own(repository, client):
    own = keys.generate(repository.keys, "press", 1)
    role = RoleKeys([own[0].public_key])
    repository.offline.add_model("press", role, [*repository.signers("targets"), *own], repository.now)
    with pytest.raises(RepositoryError, match="already"):
        repository.offline.add_model("press", role, repository.signers(), repository.now)
    repository.online.publish(repository.now)
    with pytest.raises(RepositoryError, match=r"\(release-1\) is a key of press \(press-1\)"):
        repository.sign("1", model="press")
    repository.offline.sign("press", "1", "onnx", b"p", own, repository.now)
    repository.online.publish(repository.now)
    assert client.fetch("press/1.onnx") == b"p"


def test_a_model_that_is_not_there_is_named(repository):
    with pytest.raises(RepositoryError, match=r"'knee' is not in the repository \(it has: shoulder\)"):
        repository.sign("1", model="knee")


# ---- thresholds


@pytest.fixture
def strict(tmp_path):
    """Two of three sign everything that is signed offline."""
    two = Quorum(3, 2)
    return Repository(tmp_path / "strict", quorums=Quorums(two, two, two))


def test_a_release_waits_for_enough_signatures(strict):
    first, second, _ = strict.signers("release")
    lacking = strict.offline.sign(MODEL, "1", "onnx", b"a", [first], strict.now)
    assert str(lacking) == "needs 1 more of these keys to sign it: release-2, release-3"
    publication = strict.online.publish(strict.now)
    assert publication.roles == {}
    assert publication.waiting[MODEL] == str(lacking)
    with pytest.raises(RepositoryError, match="would undo"):
        strict.offline.sign(MODEL, "2", "onnx", b"b", [first], strict.now)
    with pytest.raises(RepositoryError, match="a version is for ever"):
        strict.offline.sign(MODEL, "1", "onnx", b"b", [second], strict.now)
    assert str(strict.offline.sign(MODEL, "1", "onnx", b"a", [second], strict.now)) == "signed"
    assert list(strict.online.publish(strict.now).roles) == [MODEL]
    assert staged(strict) == []
    with served(strict.path) as url:
        assert Client(strict.folder / "client", url, strict.root).fetch("shoulder/1.onnx") == b"a"


def test_the_same_key_twice_is_one_signature(strict):
    first = strict.signers("release")[0]
    strict.offline.sign(MODEL, "1", "onnx", b"a", [first], strict.now)
    assert strict.offline.cosign(MODEL, [first]).missing == 1


def test_a_key_of_another_role_signs_nothing(strict):
    with pytest.raises(RepositoryError, match="is a key of shoulder"):
        strict.offline.sign(MODEL, "1", "onnx", b"a", strict.signers("targets"), strict.now)
    strict.offline.sign(MODEL, "1", "onnx", b"a", strict.signers("release")[:1], strict.now)
    with pytest.raises(RepositoryError, match="is a key of shoulder"):
        strict.offline.cosign(MODEL, strict.signers("root"))
    assert strict.online.publish(strict.now).roles == {}


def test_nothing_that_is_staged_can_be_signed_when_there_is_nothing(strict):
    with pytest.raises(RepositoryError, match="nothing is staged for 'root'"):
        strict.offline.cosign("root", strict.signers())


def test_one_model_that_waits_does_not_hold_up_another(tmp_path):
    repository = Repository(tmp_path / "two", models=(MODEL, "press"), quorums=Quorums(release=Quorum(2, 2)))
    both = repository.signers("release")
    repository.offline.sign(MODEL, "1", "onnx", b"a", both[:1], repository.now)
    repository.offline.sign("press", "1", "onnx", b"p", both, repository.now)
    publication = repository.online.publish(repository.now)
    assert list(publication.roles) == ["press"]
    assert list(publication.waiting) == [MODEL]


@pytest.mark.parametrize(("count", "threshold"), [(0, 1), (1, 2), (1, 0)])
def test_a_threshold_that_cannot_be_met_is_refused(count, threshold):
    with pytest.raises(RepositoryError, match="cannot be met"):
        Quorum(count, threshold)


# ---- rotation

ROLES = ["root", "targets", MODEL, "rollout", "snapshot", "timestamp", "online"]


def rotated(repository, role, **more):
    options = {"replace": (), "public": (), "threshold": None, "now": repository.now, **more}
    return rotate(repository.offline, role, repository.keys, repository.online_keys, **options)


@pytest.mark.parametrize("quorum", [Quorum(), Quorum(3, 2)])
def test_every_key_can_be_changed_and_every_client_follows(tmp_path, quorum):
    repository = Repository(tmp_path / "r", quorums=Quorums(quorum, quorum, quorum))
    repository.released("1", b"a")
    with served(repository.path) as url:
        followed = Client(tmp_path / "followed", url, repository.root)
        for number, role in enumerate(ROLES):
            before = {one: repository.offline.keys_of(one) for one in ROLES[:-1]}
            assert all(str(lacking) == "signed" for lacking in rotated(repository, role).values())
            assert repository.online.publish(repository.now).waiting == {}
            changed = [one for one in ROLES[:-1] if repository.offline.keys_of(one) != before[one]]
            assert changed == (["rollout", "snapshot", "timestamp"] if role == "online" else [role])
            assert followed.fetch("shoulder/1.onnx") == b"a"
            newcomer = Client(tmp_path / f"newcomer-{number}", url, repository.root)
            assert newcomer.fetch("shoulder/1.onnx") == b"a"
        repository.released("2", b"b")
        assert followed.fetch("shoulder/2.onnx") == b"b"


@pytest.mark.parametrize("role", [MODEL, "targets", "root"])
def test_an_old_key_signs_nothing_any_more(repository, role):
    purpose = "release" if role == MODEL else role
    old = repository.signers(purpose)
    rotated(repository, role)
    repository.online.publish(repository.now)
    with pytest.raises(RepositoryError, match=f"is a key of {role}"):
        repository.offline.renew(role, old, repository.now)


def test_new_keys_of_a_model_wait_for_the_model_to_be_signed_by_them(repository, client):
    """The new key is somebody else's: the delegation alone would leave the model without valid metadata."""
    repository.released("1", b"a")
    other = authority.new_key()
    public = repository.folder / "alice.pem"
    public.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    rotated(repository, MODEL, public=[public])
    publication = repository.online.publish(repository.now)
    assert publication.roles == {}
    assert publication.waiting["targets"] == (
        "waits for shoulder, which needs 1 more of these keys to sign it: alice"
    )
    assert client.fetch("shoulder/1.onnx") == b"a"
    private = repository.folder / "alice-private.pem"
    authority.write_private(private, authority.private_pem(other))
    repository.offline.cosign(MODEL, [keys.read_key(private)])
    assert repository.online.publish(repository.now).waiting == {}
    assert client.fetch("shoulder/1.onnx") == b"a"


def test_one_key_of_several_can_be_changed(strict):
    rotated(strict, "root", replace=["root-2"])
    strict.online.publish(strict.now)
    assert sorted(keys.name(key) for key in strict.offline.keys_of("root").keys) == [
        "root-1",
        "root-3",
        "root-4",
    ]
    with pytest.raises(RepositoryError, match="root-2: no key of root"):
        rotated(strict, "root", replace=["root-2"])


def test_a_new_root_waits_for_the_signatures_of_the_old_and_the_new_keys(strict):
    """Two people hold one old root key each; the new key is made by the first."""
    for path in strict.keys.glob("root-[23].pem"):
        path.rename(strict.folder / path.name)
    second = keys.read_key(strict.folder / "root-2.pem")
    lacking = rotated(strict, "root", replace=["root-3"])
    assert "root-2" in str(lacking["root"])
    assert "root" in strict.online.publish(strict.now).waiting
    assert str(strict.offline.cosign("root", [second])) == "signed"
    assert strict.online.publish(strict.now).root is not None
    with served(strict.path) as url:
        Client(strict.folder / "client", url, strict.root).look()


def test_stolen_online_keys_can_be_changed_without_them(repository, client):
    for path in repository.online_keys.iterdir():
        path.unlink()
    rotated(repository, "online")
    repository.online.publish(repository.now)
    client.look()
    repository.released("1")
    assert client.fetch("shoulder/1.onnx") == b"a model"


# ---- time


def test_what_is_signed_online_is_signed_again_in_time_for_ever(repository, client):
    versions = set()
    for _ in range(60):
        repository.later(hours=7)
        repository.online.refresh(repository.now)
        state = repository.layout.load()
        assert not any(
            metadata.signed.is_expired(repository.now + timedelta(hours=5))
            for metadata in (state.timestamp, state.snapshot, state.roles["rollout"])
        )
        versions.add(state.timestamp.signed.version)
    assert len(versions) < 40
    client.look()


def test_nothing_is_signed_again_before_half_of_its_time(repository):
    repository.later(hours=11)
    assert not repository.online.refresh(repository.now)
    assert repository.online.refresh(repository.now, force=True)


def test_the_timestamp_says_when_it_was_signed(repository, client):
    repository.later(hours=13)
    repository.online.refresh(repository.now)
    said = repository.layout.load().timestamp.signed.unrecognized_fields["marram_time"]
    assert said == repository.now.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_clients_clock_finds_a_repository_that_nobody_refreshed_expired(tmp_path):
    from datetime import UTC, datetime

    old = Repository(tmp_path / "old", now=datetime.now(UTC) - timedelta(days=2))
    with served(old.path) as url:
        client = Client(tmp_path / "client", url, old.root)
        with pytest.raises(ExpiredMetadataError):
            client.look()
        old.online.refresh(datetime.now(UTC))
        client.look()


@pytest.mark.parametrize("role", ["root", "targets", MODEL])
def test_roles_with_offline_keys_are_renewed_as_they_are(repository, client, role):
    repository.released("1")
    repository.later(days=100)
    repository.offline.renew(role, repository.signers(), repository.now)
    repository.online.publish(repository.now)
    state = repository.layout.load()
    metadata = state.root if role == "root" else state.roles[role]
    assert metadata.signed.expires > repository.now + timedelta(days=364)
    assert client.fetch("shoulder/1.onnx") == b"a model"


# ---- crashes and damage


def operations():
    def release(repository):
        repository.sign("2", b"b")
        repository.online.publish(repository.now)

    def take_out(repository):
        repository.offline.withdraw(MODEL, "1", None, repository.signers(), repository.now)
        repository.online.publish(repository.now)

    def refresh(repository):
        repository.online.refresh(repository.now, force=True)

    def change(role):
        def work(repository):
            rotated(repository, role)
            repository.online.publish(repository.now)

        return work

    return {"release": release, "take out": take_out, "refresh": refresh} | {
        f"rotate {role}": change(role) for role in ROLES
    }


@pytest.mark.parametrize("name", drawn(operations(), 4))
def test_a_power_cut_at_any_write_leaves_a_repository_that_clients_accept_and_that_goes_on(
    tmp_path, monkeypatch, name
):
    work = operations()[name]
    after = 0
    while True:
        repository = Repository(tmp_path / str(after))
        repository.released("1", b"a")
        written = cut_power(monkeypatch, after)
        try:
            work(repository)
            finished = True
        except PowerCutError:
            finished = False
        monkeypatch.undo()
        with served(repository.path) as url:
            client = Client(repository.folder / "client", url, repository.root)
            first = client.fetch("shoulder/1.onnx")
            assert first == b"a" or name == "take out"
            if not finished:
                work_again(repository, name, work)
            client.look()
            repository.released("3", b"c")
            assert client.fetch("shoulder/3.onnx") == b"c"
        if finished:
            assert after == len(written) > 1
            return
        after += 1


def work_again(repository, name, work):
    """What an operator does: publish what is staged, or the command again where that says nothing is."""
    if repository.online.publish(repository.now).roles == {} and name in ("release", "take out", "refresh"):
        try:
            work(repository)
        except RepositoryError as error:
            assert "published" in str(error)  # the cut came after the last write that matters


def test_keys_that_are_missing_or_of_another_repository_change_nothing(repository, tmp_path, client):
    other = Repository(tmp_path / "other")
    repository.sign("1")
    before = sorted(path.name for path in (repository.path / "metadata").iterdir())
    for folder, words in ((other.online_keys, "cannot sign snapshot"), (tmp_path / "none", "holds no keys")):
        with pytest.raises(RepositoryError, match=words):
            type(repository.online)(repository.layout, folder).publish(repository.now)
    assert sorted(path.name for path in (repository.path / "metadata").iterdir()) == before
    assert staged(repository) == [MODEL]
    assert client.fetch("shoulder/1.onnx") is None


def test_a_client_refuses_what_another_repository_signed(repository, tmp_path):
    other = Repository(tmp_path / "other")
    with served(other.path) as url, pytest.raises((UnsignedMetadataError, TufError)):
        Client(tmp_path / "client", url, repository.root).look()


@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
@pytest.mark.parametrize("file", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"])
def test_a_damaged_repository_is_named_and_left_alone(repository, file, damage):
    path = repository.path / "metadata" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"garbage")
    for work in (lambda: repository.sign("1"), lambda: repository.online.publish(repository.now)):
        with pytest.raises(
            RepositoryError, match=file.replace(".", r"\.") if damage != "gone" else "metadata"
        ):
            work()


def test_a_damaged_target_is_refused_by_the_client(repository, client):
    repository.released("1", b"good")
    (target,) = (path for path in repository.path.glob("targets/*/*.onnx"))
    target.write_bytes(b"bad!")
    with pytest.raises((DownloadError, TufError)):
        client.fetch("shoulder/1.onnx")


def test_a_folder_that_is_no_repository_says_what_to_run(tmp_path):
    with pytest.raises(RepositoryError, match="release init"), Layout(tmp_path / "none").lock():
        pass
    with pytest.raises(RepositoryError, match="release init"):
        Layout(tmp_path).load()


def test_a_repository_is_not_made_over_another(repository):
    with pytest.raises(RepositoryError, match="is there already"):
        Repository(repository.folder)


def test_stale_staged_metadata_is_not_published(repository):
    """Two copies of the repository were changed; the one that comes second is refused."""
    repository.sign("1")
    stale = repository.layout.staged(MODEL).read_bytes()
    repository.online.publish(repository.now)
    repository.released("2")
    repository.layout.staged(MODEL).write_bytes(stale)
    assert "release discard shoulder" in repository.online.publish(repository.now).waiting[MODEL]
    repository.layout.discard(MODEL)
    assert repository.online.publish(repository.now).waiting == {}


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_key_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "release-1.pem").write_bytes(content)
    for read in (keys.read_key, keys.read_public_key):
        with pytest.raises(RepositoryError, match=r"release-1\.pem"):
            read(tmp_path / "release-1.pem")
