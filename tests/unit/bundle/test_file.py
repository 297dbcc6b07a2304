"""Bundles: whole ones are read, and each way of being bad is refused with a reason of its own."""

import hashlib
import io
import json
import struct
import zipfile
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from marram.bundle import file as bundles
from marram.bundle.file import MANIFEST, PARAMETERS, encode, encode_parameters, parse, read, split
from marram.errors import BundleError, ProgramError
from marram.programs.program import ProgramOptions, Tensor

from tests.support import models
from tests.support.configs import HOST_BUNDLE, SHOULDER_BUNDLE

SMALL = models.bundle()


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members, compression=zipfile.ZIP_STORED):
    """A zip of (name, content) pairs as they are, whatever the manifest says."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return out.getvalue()


def with_manifest(text):
    """The small bundle with another manifest text; a function takes and gives the parsed one."""
    members = members_of(SMALL)
    if callable(text):
        manifest = json.loads(members[MANIFEST])
        text(manifest)
        text = json.dumps(manifest).encode()
    return packed([(MANIFEST, text), *((n, c) for n, c in members.items() if n != MANIFEST)])


def refused(data, words=""):
    with pytest.raises(BundleError) as caught:
        parse(data, "a.marram")
    assert str(caught.value).startswith("a.marram: ")
    assert words in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", [HOST_BUNDLE, SHOULDER_BUNDLE], ids=lambda path: path.name)
def test_the_shipped_bundles_are_read_and_all_their_programs_load(path):
    bundle = read(path)
    assert bundle.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert bundle.parameters().shape == (bundle.manifest.parameter_count,)
    for role in ("infer", "train", "evaluate", "predict"):
        assert bundle.program(role).inputs
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize("path", [HOST_BUNDLE, SHOULDER_BUNDLE], ids=lambda path: path.name)
def test_the_same_content_always_gives_the_same_bytes(path):
    bundle = read(path)
    assert encode(bundle.manifest, bundle.members) == path.read_bytes()


def test_parameters_are_one_flat_vector_in_the_manifests_order():
    manifest = models.manifest(
        parameters=(Tensor("b", "float32", (2, 2)), Tensor("a", "float32", ()), Tensor("c", "float32", (0,)))
    )
    flat = np.arange(5, dtype=np.float32)
    tensors = split(manifest, flat)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "b": [[0, 1], [2, 3]],
        "a": 4,
        "c": [],
    }
    data = encode(
        manifest, {"infer.onnx": models.classifier(), PARAMETERS: encode_parameters(manifest, flat)}
    )
    assert parse(data).parameters().tolist() == flat.tolist()
    with pytest.raises(BundleError, match="tiny has 5 parameters, 4 values were given"):
        split(manifest, flat[:4])


# Damage


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(SMALL) - 1))
def test_a_cut_bundle_is_refused_with_the_reason(length):
    refused(SMALL[:length], "is not a whole bundle (damaged or cut short)")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_bundle_with_a_flipped_byte_is_refused_or_means_the_same(where, flip):
    """Dates and the like in the zip's headers mean nothing; whatever means something is checked."""
    data = bytearray(SMALL)
    data[where] ^= flip
    try:
        bundle = parse(bytes(data), "a.marram")
    except BundleError as error:
        assert str(error).startswith("a.marram: ")
    else:
        assert bundle.manifest == parse(SMALL).manifest
        assert bundle.members == parse(SMALL).members
        assert bundle.digest != parse(SMALL).digest


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_that_are_no_bundle_are_refused(data):
    refused(data)


@given(st.binary(min_size=1, max_size=50))
@settings(max_examples=30, deadline=None)
def test_bytes_before_or_behind_never_change_what_a_bundle_holds(data):
    for mixed in (SMALL + data, data + SMALL):
        try:
            assert parse(mixed, "a.marram").members == parse(SMALL).members
        except BundleError as error:
            assert str(error).startswith("a.marram: ")


def test_a_member_that_was_exchanged_does_not_have_its_hash():
    members = members_of(SMALL)
    members["infer.onnx"] = models.classifier(weight=-1)
    refused(packed(members.items()), "member 'infer.onnx' does not have the sha256 that the manifest names")


# What a hostile zip may try


@pytest.mark.parametrize(
    "name",
    ["../infer.onnx", "/etc/passwd", "a/b.onnx", "..\\infer.onnx", ".hidden", "..", "C:\\x", "folder/"],
)
def test_a_name_that_leads_out_of_the_bundle_is_refused(name):
    refused(packed([*members_of(SMALL).items(), (name, b"x")]), "a bundle holds plain file names only")


def test_a_compressed_member_is_refused_before_it_is_unpacked():
    bomb = packed([(MANIFEST, b"0" * (50 << 20))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    refused(bomb)


def test_a_compressed_but_honest_bundle_is_refused_too():
    refused(
        packed(members_of(SMALL).items(), zipfile.ZIP_DEFLATED),
        "is compressed or encrypted; bundles are stored",
    )


def test_an_encrypted_member_is_refused():
    data = bytearray(SMALL)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    refused(bytes(data), "is compressed or encrypted")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused():
    refused(packed([*members_of(SMALL).items(), ("infer.onnx", b"x")]), "member 'infer.onnx' is there twice")


def test_members_that_overlap_in_the_file_are_refused():
    """Each entry of the directory names the same bytes: read out, 60 members would be 60 times the file."""
    content = b"\0" * (1 << 20)
    out = bytearray(packed([("a", content)]))
    begin = out.index(b"PK\x01\x02")
    end = out.index(b"PK\x05\x06")
    entry = bytes(out[begin:end])
    directory = b"".join(
        entry.removesuffix(b"a") + bytes([48 + n]) for n in range(60) if chr(48 + n) not in "/\\"
    )
    tail = bytearray(out[end:])
    struct.pack_into(
        "<HHII", tail, 8, len(directory) // len(entry), len(directory) // len(entry), len(directory), begin
    )
    refused(bytes(out[:begin]) + directory + bytes(tail), "claim more bytes than the file has")


def test_thousands_of_members_are_refused():
    refused(
        packed([*members_of(SMALL).items(), *((f"m{n}", b"") for n in range(2000))]),
        "a bundle has at most 64",
    )


def test_a_huge_manifest_is_refused_unread():
    refused(with_manifest(b" " * (5 << 20)), "member 'manifest.json' claims 5242880 bytes")


def test_a_member_that_the_manifest_does_not_name_and_one_that_is_missing_are_named():
    members = members_of(SMALL)
    del members["infer.onnx"]
    refused(
        packed([*members.items(), ("more.onnx", b"x")]),
        "members missing: ['infer.onnx']; not in the manifest: ['more.onnx']",
    )


def test_a_zip_without_manifest_is_no_bundle():
    refused(packed([("infer.onnx", b"x")]), "holds no manifest.json; it is not a bundle")


# The manifest

MANIFESTS = [
    ("no JSON", b"{", "manifest.json is not valid"),
    ("no UTF-8", b'{"name": "\xff"}', "manifest.json is not valid"),
    ("deep", b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "manifest.json is not valid"),
    ("empty", b"{}", "missing required field `name`"),
    ("a newer schema", b'{"schema": 2}', "has schema 2, this version reads up to 1: upgrade marram"),
]


def shaped(*shape):
    return {"parameters": [{"name": "w", "dtype": "float32", "shape": list(shape)}]}


def named(*names):
    return {"channels": [{"name": name} for name in names]}


CHANGES = [
    ("a name that is a path", {"name": "../x"}, "`$.name`"),
    ("a name that ends its line", {"name": "x\n"}, "`$.name`"),
    ("an unknown task", {"task": "guess"}, "`$.task`"),
    ("no rate", {"rate": 0}, "`$.rate`"),
    ("a huge window", {"length": 10**12}, "`$.length`"),
    ("no channels", named(), "a model has at least one channel"),
    ("the same channel twice", named("x", "x"), "each has a name of its own"),
    ("one label", {"labels": ["a"]}, "a classify model needs at least two labels"),
    ("the same label twice", {"labels": ["a", "a"]}, "a label stands twice"),
    ("an open shape", shaped("n"), "'w' has a shape that is not fixed"),
    ("a parameter of negative shape", shaped(-3), "parameter 'w' has the shape (-3,)"),
    ("parameters without end", shaped(10**9, 10**9), "a device takes at most"),
    ("another length than the program's", {"length": 5}, "a window has 2 channels and 5 samples"),
    ("a channel more than the program's", named("x", "y", "z"), "but a window has 3 channels"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), [pytest.param(*row[1:], id=row[0]) for row in MANIFESTS])
def test_a_manifest_that_cannot_be_read_is_refused(text, words):
    refused(with_manifest(text), words)


@pytest.mark.parametrize(("change", "words"), [pytest.param(*row[1:], id=row[0]) for row in CHANGES])
def test_a_manifest_that_cannot_be_true_is_refused_with_the_field(change, words):
    refused(with_manifest(lambda manifest: manifest.update(change)), words)


def test_a_program_whose_file_is_not_there_is_refused():
    def change(manifest):
        manifest["programs"]["infer"]["file"] = "other.onnx"

    refused(with_manifest(change), "program 'infer' names 'other.onnx', which is not in the bundle")


def test_parameters_without_their_file_are_refused():
    data = encode(models.manifest(), {"infer.onnx": models.classifier()})
    refused(data, "the manifest lists parameters, but parameters.safetensors is not in the bundle")


# Parameters


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 8, "cannot be read"),
        (b"\x02" + b"\0" * 7 + b"{}", "w should be float32 (3,), is nothing"),
        (safetensors.numpy.save({"w": np.zeros(3)}), "is float64 (3,)"),
        (safetensors.numpy.save({"w": np.zeros(4, np.float32)}), "is float32 (4,)"),
        (safetensors.numpy.save({"w": np.float32([0, np.nan, 0])}), "holds values that are not finite"),
        (safetensors.numpy.save({"w": np.float32([0, np.inf, 0])}), "holds values that are not finite"),
        (
            struct.pack("<Q", 54)
            + b'{"w":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'[:54]
            + b"\0" * 6,
            "cannot be read",
        ),
    ],
)
def test_parameters_that_are_not_those_of_the_manifest_are_refused(content, words):
    bundle = parse(models.bundle(members={PARAMETERS: content}))
    with pytest.raises(BundleError, match=PARAMETERS) as caught:
        bundle.parameters()
    assert words in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_parameters_that_were_signed_so_are_an_error_or_numbers(data):
    content = bytearray(members_of(SMALL)[PARAMETERS])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    bundle = parse(models.bundle(members={PARAMETERS: bytes(content)}))
    try:
        assert np.isfinite(bundle.parameters()).all()
    except BundleError as error:
        assert PARAMETERS in str(error)


# Programs of a bundle


def test_a_program_that_the_bundle_lacks_is_named_with_those_it_has():
    with pytest.raises(BundleError, match="has no 'train' program; it has: infer"):
        parse(SMALL, "a.marram").program("train")


def test_an_operator_that_the_runtime_lacks_is_named():
    bundle = parse(models.bundle(models.classifier(operator="Softmix")), "a.marram")
    with pytest.raises(
        ProgramError, match=r"a\.marram: infer\.onnx: onnxruntime cannot load the given bytes: .*Softmix"
    ):
        bundle.program("infer")
    foreign = parse(models.bundle(models.classifier(operator="Magic", domain="com.example")), "a.marram")
    with pytest.raises(ProgramError, match="Magic"):
        foreign.program("infer")


@pytest.mark.parametrize("content", [b"", b"hello", models.classifier()[:-40]], ids=["empty", "text", "cut"])
def test_a_program_that_is_no_onnx_file_is_refused(content):
    with pytest.raises(ProgramError, match=r"infer\.onnx: onnxruntime cannot load"):
        parse(models.bundle(content)).program("infer")


def test_a_runtime_that_is_not_known_is_named():
    entry = models.manifest().programs["infer"]
    bundle = parse(models.bundle())
    programs = {"infer": msgspec.structs.replace(entry, runtime="torch")}
    later = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, programs=programs))
    with pytest.raises(
        ProgramError, match="runtime 'torch' is not known here; this version runs: onnx, tflite"
    ):
        later.program("infer")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"outputs": (Tensor("score", "float32", ("batch", 2)),)},
            "output 'score' should be float32 ('batch', 2), but is not there",
        ),
        (
            {"outputs": (Tensor("scores", "int8", ("batch", 2)),)},
            "output 'scores' should be int8 ('batch', 2), but is float32",
        ),
        (
            {"outputs": (Tensor("scores", "float32", ("batch",)),)},
            "output 'scores' should be float32 ('batch',), but is float32",
        ),
        (
            {"outputs": (Tensor("scores", "float32", ("batch", 3)),)},
            "output 'scores' should have shape ('batch', 3), has ('batch', 2)",
        ),
        (
            {"inputs": (Tensor("z", "float32", ("batch", 2, 4)),)},
            "input 'z' should be float32 ('batch', 2, 4), but is not there",
        ),
    ],
)
def test_a_program_with_other_tensors_than_the_manifest_says_is_refused(tensors, words):
    entry = models.manifest().programs["infer"]
    made = {"inputs": entry.inputs, "outputs": entry.outputs} | tensors
    bundle = parse(models.bundle(programs={"infer": type(entry)(entry.file, "onnx", **made)}))
    with pytest.raises(BundleError) as caught:
        bundle.program("infer", ProgramOptions())
    assert words in str(caught.value)


# Files


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BundleError, match=r"none\.marram: cannot be read: No such file"):
        read(tmp_path / "none.marram")
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        read(tmp_path)
    sparse = tmp_path / "large.marram"
    with sparse.open("wb") as file:
        file.truncate(bundles.MAX_BYTES + 1)
    with pytest.raises(
        BundleError, match=r"large\.marram: is 268435457 bytes; a bundle has at most 268435456"
    ):
        read(sparse)


# What deltas of two bundles have in common


def test_the_family_is_the_same_for_another_version_and_another_int8_program():
    one, two = parse(SMALL).manifest, parse(models.bundle(models.classifier(2.0), version="2")).manifest
    assert one.family == two.family


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"rate": 11.0},
        {"labels": ("high", "low")},
        {"channels": tuple(reversed(models.manifest().channels))},
    ],
)
def test_the_family_is_another_when_deltas_would_not_fit(change):
    assert models.manifest().family != models.manifest(**change).family
