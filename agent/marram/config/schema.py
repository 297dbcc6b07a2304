"""The agent's configuration, section by section.

The structs are the one description: the loader checks against them, ``marram.config.json_schema`` prints
them, and the lines ``name: text`` of their docstrings are the descriptions of their keys.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from marram.bundle.description import Description
from marram.config.expected import did_you_mean
from marram.config.machine import Board, Watch
from marram.config.values import (
    BrokerUrl,
    Duration,
    EnrolmentUrl,
    ExistingFile,
    ExistingFolder,
    FilePath,
    FolderPath,
    HttpUrl,
    Size,
    TopicFilter,
)
from marram.config.versions import CURRENT
from marram.link.keys.key import SOURCE
from marram.outputs.output import OUTPUTS, OutputConfig
from marram.releases.gates import Limits
from marram.sensors.sensor import SENSORS, SensorConfig
from marram.stream.config import StreamConfig

if TYPE_CHECKING:
    SensorUnion = SensorConfig
    OutputUnion = OutputConfig
else:
    SensorUnion = SENSORS.union()
    OutputUnion = OUTPUTS.union()

Problems = Iterable[tuple[tuple[str | int, ...], str]]

DeviceName = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$(?!\n)", examples=["press-07", "ward3.bed12"]),
]
QuietHours = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$(?!\n)",
        examples=["22:00-06:00", "12:30-13:15"],
    ),
]
KeySource = Annotated[
    str,
    msgspec.Meta(
        pattern=SOURCE,
        examples=[
            "file",
            "credential:device.key",
            "pkcs11:token=marram;object=device?pin-source=/etc/marram/pin",
        ],
    ),
]
Base = Annotated[str, msgspec.Meta(min_length=1, examples=["raspberry-pi-5", "../sites/press-line.yaml"])]
Bases = Base | tuple[Base, ...]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Threads = Annotated[int, msgspec.Meta(ge=1, le=256)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
PositiveDuration = Annotated[Duration, msgspec.Meta(gt=0)]
PositiveSize = Annotated[Size, msgspec.Meta(gt=0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


def host_name() -> str:
    """The machine's name, as far as it can be a device's."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")
    return name[:48] or "device"


class Device(_Section, frozen=True, kw_only=True):
    """The machine.

    name: what the device is called, by default its host name.
    tags: groups that it belongs to, for the roll-out of releases.
    state: folder for all that must outlive the process.
    log_level: how much is logged.
    """

    name: DeviceName = msgspec.field(default_factory=host_name)
    tags: tuple[DeviceName, ...] = ()
    state: FolderPath = msgspec.field(default_factory=lambda: Path("/var/lib/marram"))
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Model(_Section, frozen=True, kw_only=True):
    """The model and how it runs.

    bundle: the model bundle that the device starts with.
    file: instead of a bundle, a model file (.onnx or .tflite) that is run as it is, and not trained.
    description: what such a file does not say of itself.
    threads: threads inside one operator of the model.
    providers: onnxruntime execution providers, best first; what the machine lacks is passed over.
    runtime: which of a bundle's forms runs; auto measures both here, once, and takes the better one.
    max_batch: most windows in one call of the model.
    queue: windows that may wait for the model; beyond it the oldest are dropped and counted.
    parameters: run the int8 program of the bundle, or the parameters that this device trained itself.
    """

    one_of: ClassVar[tuple[str, ...]] = ("bundle", "file")

    bundle: ExistingFile | None = None
    file: ExistingFile | None = None
    description: Description | None = None
    threads: Threads = 1
    providers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("CPUExecutionProvider",)
    runtime: Literal["auto", "onnx", "tflite"] = "auto"
    max_batch: Count = 64
    queue: Count = 4096
    parameters: Literal["bundle", "own"] = "bundle"

    def problems(self) -> Problems:
        """Cross-field mistakes."""
        if self.bundle is None and self.file is None:
            yield ("bundle",), "this key is missing: expected the path of a bundle, or file and description"
        if self.bundle is not None and self.file is not None:
            yield ("file",), "expected either bundle or file, found both"
        if (self.file is None) != (self.description is None):
            yield ("description",), "expected file and description together, found one of them"
        if self.file is not None and self.file.suffix not in (".onnx", ".tflite"):
            yield ("file",), f"expected a file that ends in .onnx or .tflite, found {self.file.name}"
        if self.file is not None and self.parameters == "own":
            yield ("parameters",), "expected bundle: a bare model file cannot be trained"


class Cloud(_Section, frozen=True, kw_only=True):
    """The region's broker, for rounds and releases.

    identity: folder with the files that enrolment wrote.
    broker: address of the MQTT broker.
    keepalive: seconds between signs of life on a quiet connection.
    enrolment: address of the enrolment server that renews the certificate, by default the one that gave it.
    key: where the device's key is, by default where enrolment found or made it.
    """

    identity: ExistingFolder
    broker: BrokerUrl
    keepalive: Annotated[Duration, msgspec.Meta(ge=1, le=65535)] = 60.0
    enrolment: EnrolmentUrl | None = None
    key: KeySource | None = None


class Trial(_Section, frozen=True, kw_only=True):
    """How a release is tried before it replaces the model that runs.

    stored: most stored windows that the preflight runs.
    windows: live windows that the candidate must see beside the running model.
    deadline: longest time for that.
    confirm: windows that a new release must predict without a failure before it counts as good; until then a
    failure brings the former model back.
    agreement: least share of windows on which both models say the same, unless labels say that the candidate
    is no worse.
    accuracy: most that the accuracy on labelled windows may fall, 0 to 1.
    labelled: labelled windows that an accuracy needs to count.
    latency: most processor time a window, in times of the running model's.
    memory: most memory, in times of the running model's.
    """

    stored: Count = 256
    windows: Count = 200
    deadline: PositiveDuration = 86400.0
    confirm: Count = 1000
    agreement: Share = 0.8
    accuracy: Share = 0.05
    labelled: Count = 30
    latency: Annotated[float, msgspec.Meta(ge=1)] = 3.0
    memory: Annotated[float, msgspec.Meta(ge=1)] = 3.0

    def limits(self) -> Limits:
        """As the gates take them."""
        return Limits(self.latency, self.memory, self.agreement, self.accuracy, self.labelled)


class Releases(_Section, frozen=True, kw_only=True):
    """Over-the-air releases of the model.

    url: the release repository over HTTPS, by default it is asked for over the broker.
    every: time between two looks without news.
    spread: after news, devices look within this time, each at its own moment.
    hours: times of day, in local time, in which releases are fetched and take over, by default always.
    deadline: longest time to fetch one.
    preflight_timeout: longest time for the preflight.
    memory: memory limit of the child processes that fetch and try releases.
    trial: how a release is tried.
    """

    url: HttpUrl | None = None
    every: PositiveDuration = 6 * 3600.0
    spread: Duration = 60.0
    hours: tuple[QuietHours, ...] = ()
    deadline: PositiveDuration = 86400.0
    preflight_timeout: PositiveDuration = 120.0
    memory: PositiveSize = 512 * 1024 * 1024
    trial: Trial = Trial()


class Store(_Section, frozen=True, kw_only=True):
    """The windows kept for training.

    max_bytes: size of its file; when it is full, what is kept is a random sample of all windows that came.
    max_age: older windows go.
    commit_every: time between two writes; what came since the last one is lost in a power cut.
    """

    max_bytes: PositiveSize = 64 * 1024 * 1024
    max_age: PositiveDuration = 30 * 86400.0
    commit_every: PositiveDuration = 30.0


class Governor(_Section, frozen=True, kw_only=True):
    """When training may run.

    max_cpu: most processor load by others, in percent.
    min_free_memory: least memory that must be free.
    on_battery: whether training may run on battery.
    min_battery: least charge on battery, in percent.
    quiet_hours: times of day, in local time, without training.
    min_new_samples: least new windows since the last training.
    """

    max_cpu: Percent = 80.0
    min_free_memory: Size = 64 * 1024 * 1024
    on_battery: bool = False
    min_battery: Percent = 50.0
    quiet_hours: tuple[QuietHours, ...] = ()
    min_new_samples: Annotated[int, msgspec.Meta(ge=0)] = 0


class Trainer(_Section, frozen=True, kw_only=True):
    """The child process that trains.

    memory: its memory limit.
    nice: how far it steps back behind other processes.
    timeout: it is ended after this long.
    threads: threads inside one operator.
    """

    memory: PositiveSize = 512 * 1024 * 1024
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    timeout: PositiveDuration = 600.0
    threads: Threads = 1


class Schedule(_Section, frozen=True, kw_only=True):
    """Local training without a cloud.

    after: windows needed before the first training.
    every: time between trainings.
    epochs: passes over the windows.
    learning_rate: step size, by default the bundle's.
    """

    after: Count = 120
    every: PositiveDuration = 86400.0
    epochs: Count = 50
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Int8(_Section, frozen=True, kw_only=True):
    """The parameters that this device trained itself, in int8.

    use: run them in int8 where that is as good as float32 and no slower, where it is as good, or never.
    agreement: least share of held-out windows of which int8 must say the same as float32.
    accuracy: most that the accuracy on held-out windows may fall, 0 to 1.
    score: most that the scores of a reconstruct model may be off, as a share of their mean.
    """

    use: Literal["auto", "always", "never"] = "auto"
    agreement: Share = 0.95
    accuracy: Share = 0.02
    score: Annotated[float, msgspec.Meta(ge=0)] = 0.25


class Learning(_Section, frozen=True, kw_only=True):
    """Training on the device.

    store: the windows kept for training.
    holdout: part of the windows that is kept for evaluation.
    governor: when training may run.
    trainer: the child process that trains.
    schedule: local training without a cloud.
    int8: the parameters that this device trained itself, in int8.
    """

    store: Store = Store()
    holdout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.2
    governor: Governor = Governor()
    trainer: Trainer = Trainer()
    schedule: Schedule | None = None
    int8: Int8 = Int8()


class Control(_Section, frozen=True, kw_only=True):
    """The local socket for ``marram status``, ``marram label`` and the like.

    socket: its path, by default marram.sock in the device's state folder.
    """

    socket: FilePath | None = None


class MqttLabels(_Section, frozen=True, kw_only=True):
    """Labels as MQTT messages: {"label": "ER", "from": 1767225600, "to": 1767225660}.

    broker: address of the MQTT broker.
    topic: topic filter to subscribe to.
    """

    broker: BrokerUrl
    topic: TopicFilter


class Labels(_Section, frozen=True, kw_only=True):
    """Where labels come from besides a sensor's label column.

    mqtt: label messages.
    """

    mqtt: MqttLabels | None = None


def _repeated(section: str, names: Sequence[str | None]) -> Problems:
    for index, name in enumerate(names):
        if name is not None and name in names[:index]:
            yield (section, index, "name"), f"expected a name of its own, found {name!r} a second time"


class Agent(_Section, frozen=True, kw_only=True):
    """The configuration of one Marram agent.

    version: of the configuration, that the file was written for.
    extends: the file or files that a file builds on: names of boards or sites, or paths.
    device: the machine.
    sensors: where samples come from.
    model: the model and how it runs.
    stream: how samples become windows.
    outputs: where predictions go.
    cloud: the region's broker; without it the device works on its own.
    releases: over-the-air releases of the model.
    learning: training on the device; without it the device only runs its model.
    control: the local socket.
    labels: where labels come from.
    board: the board, as its manufacturer and its kernel name things.
    watch: what the machine must be spared.
    """

    layered: ClassVar[bool] = True

    version: Annotated[int, msgspec.Meta(ge=1, le=CURRENT)] = 1
    extends: Bases = ()
    sensors: Annotated[tuple[SensorUnion, ...], msgspec.Meta(min_length=1)]
    model: Model
    device: Device = msgspec.field(default_factory=Device)
    stream: StreamConfig = StreamConfig()
    outputs: tuple[OutputUnion, ...] = ()
    cloud: Cloud | None = None
    releases: Releases = Releases()
    learning: Learning | None = None
    control: Control = Control()
    labels: Labels = Labels()
    board: Board = Board()
    watch: Watch = Watch()

    @property
    def control_socket(self) -> Path:
        """Where the local socket stands."""
        return self.control.socket or self.device.state / "marram.sock"

    def problems(self) -> Problems:
        """Cross-field mistakes."""
        if self.model.file is not None and self.learning is not None and self.learning.schedule is not None:
            yield ("learning", "schedule"), "expected no schedule: a bare model file cannot be trained"
        names = [sensor.name for sensor in self.sensors]
        yield from _repeated("sensors", names)
        yield from _repeated("outputs", [output.name for output in self.outputs])
        for index in range(len(self.sensors)):
            yield from self._unknown_ports(index)
        for channel, config in self.stream.channels.items():
            if config.source is not None and config.source.partition(".")[0] not in names:
                yield (
                    ("stream", "channels", channel, "source"),
                    f"expected a channel of one of the sensors {', '.join(names)}, found {config.source!r}",
                )

    def _unknown_ports(self, index: int) -> Problems:
        """Keys of a sensor that hold neither a path nor a name that the board gives."""
        sensor = self.sensors[index]
        for key, kind in sensor.on_board.items():
            value, known = getattr(sensor, key), getattr(self.board, kind)
            # The kernel's own names of its industrial I/O devices are as good as the board's.
            if kind != "iio" and isinstance(value, str) and "/" not in value and value not in known:
                names = f"one of {', '.join(known)}" if known else "a name"
                hint = did_you_mean(value, known)
                message = f"expected a path below /dev, or {names} in board.{kind}, found {value!r}{hint}"
                yield ("sensors", index, key), message
