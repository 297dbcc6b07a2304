"""What goes into each package, as data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """One package.

    extras: of the project, whose requirements go into the tree.
    root: the folder that holds the tree.
    ours: the project's own import packages in it.
    commands: name in /usr/bin -> module:function.
    units: of systemd/, which dpkg enables where they have an [Install] section.
    by_hand: those of them that the administrator enables.
    user: name of the files below sysusers.d and tmpfiles.d.
    files: place in the source -> place in the package.
    conffiles: the same, for files that the administrator changes and dpkg then leaves alone.
    folders: that are made empty.
    state: what purge removes besides.
    recommends: what the administrator may want to do without.
    upon: the package in whose tree this one puts its distributions; what is there already is left out.
    reads: globs of what its programs read, though those of others do not (``UNUSED``). unused: more globs.
    """

    name: str
    summary: str
    description: str
    root: str
    extras: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    commands: dict[str, str] = field(default_factory=dict)
    units: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    user: str = ""
    files: dict[str, str] = field(default_factory=dict)
    conffiles: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    upon: str = ""
    recommends: str = ""
    reads: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


AGENT = Recipe(
    name="marram",
    summary="int8 inference and federated learning on edge hardware",
    description="""\
Runs int8 models on sensor streams, trains a little on the device on what it
saw, and shares only what it learnt, as a signed delta. New models come back
as signed releases that undo themselves when they are bad.
.
After the installation it watches the machine that it runs on, learns what is
normal for it and says what is not: systemctl start marram.""",
    root="/opt/marram",
    ours=("marram",),
    commands={"marram": "marram.cli:main"},
    units=(
        "marram.service",
        "marram-work.socket",
        "marram-work@.service",
        "marram-retry.timer",
        "marram-retry.service",
        "marram.slice",
        "marram-work.slice",
    ),
    user="marram",
    files={
        "systemd/sysusers.conf": "/usr/lib/sysusers.d/marram.conf",
        "systemd/tmpfiles.conf": "/usr/lib/tmpfiles.d/marram.conf",
        "firmware_configs": "/usr/share/marram/firmware_configs",
        "examples/host/host.marram": "/usr/share/marram/examples/host/host.marram",
    },
    conffiles={"packaging/deb/marram.yaml": "/etc/marram/marram.yaml"},
    folders=("/etc/marram/conf.d",),
    state=("/var/lib/marram", "/var/cache/marram", "/run/marram", "/etc/marram"),
)

TFLITE = Recipe(
    name="marram-tflite",
    summary="LiteRT, the second runtime of marram",
    description="""\
With it marram also runs TFLite models. A bundle that holds a model in both
forms is then measured in both on the device, and the faster one runs.""",
    root="/opt/marram",
    extras=("tflite",),
    upon="marram",
)

AGGREGATOR = Recipe(
    name="marram-aggregator",
    summary="the cloud side of marram: rounds, releases, enrolment",
    description="""\
Offers rounds of federated learning to a region's devices over MQTT, verifies
and averages what they learnt, publishes releases, and gives devices their
certificates.""",
    root="/opt/marram-aggregator",
    extras=("cloud-tflite",),
    ours=("marram", "marram_cloud"),
    commands={"marram-cloud": "marram_cloud.cli:main"},
    units=(
        "marram-aggregator.service",
        "marram-enrolment.service",
        "marram-revocations.path",
        "marram-revocations.service",
    ),
    by_hand=("marram-enrolment.service",),
    user="marram-cloud",
    files={
        "systemd/sysusers-cloud.conf": "/usr/lib/sysusers.d/marram-cloud.conf",
        "packaging/broker": "/usr/share/marram-cloud/broker",
    },
    folders=("/etc/marram-cloud",),
    state=("/var/lib/marram-cloud", "/var/cache/marram-cloud", "/etc/marram-cloud"),
    recommends="mosquitto",
    # What quantises releases, for onnxruntime and for LiteRT.
    reads=("onnxruntime/quantization", "onnxruntime/transformers", "ai_edge_litert/tools", "numpy/f2py"),
    unused=(
        "ai_edge_quantizer/*_test.py",
        "ai_edge_quantizer/examples",
        # Of SciPy the quantiser takes one matrix of scipy.linalg.
        *(
            f"scipy/{part}"
            for part in (
                "cluster",
                "constants",
                "datasets",
                "differentiate",
                "fft",
                "fftpack",
                "integrate",
                "interpolate",
                "io",
                "misc",
                "ndimage",
                "odr",
                "optimize",
                "signal",
                "sparse",
                "spatial",
                "special",
                "stats",
            )
        ),
    ),
)

RECIPES = {recipe.name: recipe for recipe in (AGENT, TFLITE, AGGREGATOR)}

UNUSED = (
    "*.pyc",
    "*.pyi",
    "*.pxd",
    "*.pyx",
    "*.h",
    "*.c",
    "*/RECORD",
    "*/direct_url.json",
    "*/REQUESTED",
    "*/INSTALLER",
    "bin",
    "*/tests",
    "*/test_data",
    "numpy/distutils",
    "numpy/f2py",
    # The C interface; Python's module holds the runtime itself.
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/datasets",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "onnx/backend/test",
    "ai_edge_litert/aot",
    "ai_edge_litert/libLiteRt*.so",
    "ai_edge_litert/tools",
    "ai_edge_litert/vendors",
    # The second choice of a module that is there in C.
    "zstandard/_cffi*.so",
)
"""Globs of what no program of ours imports or reads, below site-packages, but for a recipe's ``reads``."""
