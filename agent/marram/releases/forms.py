"""Which form of a model runs here: a bundle may carry one for onnxruntime and one for LiteRT.

Both are measured once on the device, each in a child of its own, and the choice is kept beside the slots. The
daemon loads the chosen form alone: of the other runtime it loads nothing.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from marram.bundle.bare import BareBundle
from marram.bundle.file import Bundle
from marram.bundle.manifest import InferRole
from marram.children.child import Child, ChildError
from marram.errors import BundleError, ProgramError, StorageError
from marram.inference.model import Model, int8_model
from marram.programs.program import ProgramOptions
from marram.releases.gates import Measured
from marram.releases.talk import Candidate, Kind, PreflightJob, Tried
from marram.storage import replace_file

log = logging.getLogger(__name__)

Wanted = Literal["auto", "onnx", "tflite"]
FORMS: tuple[InferRole, ...] = ("infer", "infer_tflite")
WINDOWS = 256
"""Most windows that a form is measured on."""

_MODULES = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
_NAMES = {"onnx": "onnxruntime", "tflite": "LiteRT"}
_KEPT = 8
_CLEARLY = 1.1
_LABELLED = 30
_WORSE = 0.02


class Choice(msgspec.Struct, frozen=True):
    """What was chosen for a model. digest: sha256 of its file, hex. threads, providers: with which options.

    role: the form, None where none works. why: for people; how they failed where none works.
    """

    digest: str
    threads: int
    providers: tuple[str, ...]
    role: InferRole | None
    why: str


class _File(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Choices:
    """The choices made on this device, newest last; ``path`` is their file. A damaged one is made anew."""

    path: Path

    def all(self) -> tuple[Choice, ...]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_File).choices
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return ()

    def find(self, digest: str, options: ProgramOptions) -> Choice | None:
        for one in self.all():
            if (one.digest, one.threads, one.providers) == (digest, options.threads, options.providers):
                return one
        return None

    def keep(self, choice: Choice) -> None:
        """What cannot be written is measured again."""
        others = [one for one in self.all() if _key(one) != _key(choice)]
        try:
            replace_file(self.path, msgspec.json.encode(_File((*others, choice)[-_KEPT:])))
        except StorageError as error:
            log.warning("which form of the model runs is not kept: %s", error)


def _key(choice: Choice) -> tuple[str, int, tuple[str, ...]]:
    return choice.digest, choice.threads, choice.providers


def possible(bundle: Bundle, wanted: Wanted = "auto") -> tuple[tuple[InferRole, ...], str]:
    """(the forms that this device could run, why there is no choice among them or ""). Raises BundleError."""
    programs = bundle.manifest.programs
    carried = [role for role in FORMS if role in programs]
    if not carried:
        raise BundleError(f"{bundle.source}: has no 'infer' program; it has: {', '.join(sorted(programs))}")
    runnable = [role for role in carried if _installed(programs[role].runtime)]
    if not runnable:
        # Its runtime says best what is missing.
        return (carried[0],), "it has no other form"
    chosen = [role for role in runnable if wanted in ("auto", programs[role].runtime)]
    if not chosen:
        names = ", ".join(programs[role].runtime for role in runnable)
        raise BundleError(f"{bundle.source}: model.runtime is {wanted}, but what runs here is: {names}")
    if len(chosen) > 1:
        return tuple(chosen), ""
    if len(runnable) > 1:
        return tuple(chosen), "model.runtime says so"
    if len(carried) > 1:
        other = next(programs[role].runtime for role in carried if role not in runnable)
        return tuple(chosen), f"{_NAMES[other]} is not installed"
    return tuple(chosen), "it has no other form"


def _installed(runtime: str) -> bool:
    return any(find_spec(module) is not None for module in _MODULES[runtime])


def better(measured: Mapping[InferRole, Measured | str]) -> tuple[InferRole | None, str]:
    """(the form to run, why). measured: of each form on the same windows, or why it does not run.

    The more accurate where labels show a difference, else the faster, else the smaller. (None, why) when none
    runs.
    """
    problems = {role: _problem(one) for role, one in measured.items()}
    sound = {role: one for role, one in measured.items() if isinstance(one, Measured) and not problems[role]}
    failed = "; ".join(f"{_NAMES[_runtime(role)]}: {why}" for role, why in problems.items() if why)
    if not sound:
        return None, failed
    if len(sound) == 1:
        (role,) = sound
        return role, failed or "it has no other form"
    first, second = sorted(sound, key=lambda role: (-_accuracy(sound[role]), sound[role].cpu_us))
    if _accuracy(sound[first]) <= _accuracy(sound[second]) + _WORSE:
        first, second = sorted(sound, key=lambda role: sound[role].cpu_us)
        if sound[first].cpu_us * _CLEARLY > sound[second].cpu_us:
            first, second = sorted(sound, key=lambda role: (sound[role].memory, sound[role].cpu_us))
    return first, f"measured here: {_told(first, sound)}; {_told(second, sound)}"


def _runtime(role: InferRole) -> str:
    return "tflite" if role == "infer_tflite" else "onnx"


def _problem(one: Measured | str) -> str:
    if isinstance(one, str):
        return one
    return f"fails on {one.errors} of {one.windows} windows ({one.problem})" if one.errors else ""


def _accuracy(one: Measured) -> float:
    return one.correct / one.labelled if one.labelled >= _LABELLED else 0.0


def _told(role: InferRole, measured: Mapping[InferRole, Measured]) -> str:
    one = measured[role]
    right = f", {_accuracy(one):.1%} right" if one.labelled >= _LABELLED else ""
    return f"{_NAMES[_runtime(role)]} {one.cpu_us:.0f} us a window, {one.memory / 2**20:.0f} MiB{right}"


@dataclass(frozen=True)
class Trier:
    """How a file is tried in a child. configured: the YAML's model. memory: bytes. timeout: seconds."""

    configured: Bundle
    memory: int
    nice: int
    timeout: float
    store: str = ""

    def candidate(self, bundle: Bundle, file: Path, options: ProgramOptions, role: InferRole) -> Candidate:
        manifest, described = bundle.manifest, self.configured
        kind: Kind = "marram" if not isinstance(bundle, BareBundle) else manifest.programs["infer"].runtime
        return Candidate(
            name=manifest.name,
            version=manifest.version,
            file=str(file),
            kind=kind,
            configured=described.source,
            description=described.description if isinstance(described, BareBundle) else None,
            threads=options.threads,
            providers=options.providers,
            memory=self.memory,
            nice=self.nice,
            role=role,
        )

    def measured(self, candidate: Candidate) -> Measured | str:
        """Wait for a child to try it; why it does not run. Raises ChildError when none can be started."""
        said: queue.SimpleQueue[msgspec.Struct | ChildError] = queue.SimpleQueue()
        child = Child("marram.releases.preflight", Tried, said.put, self.timeout)
        child.send(PreflightJob(None, candidate, self.store, WINDOWS))
        child.close()
        tried: Tried | None = None
        while not isinstance(frame := said.get(), ChildError):
            assert isinstance(frame, Tried)
            tried = frame
        return tried.candidate if tried is not None else str(frame)


@dataclass(frozen=True)
class Forms:
    """Loads bundles in the form that is best here. trier: None where nothing may be measured."""

    choices: Choices
    options: ProgramOptions
    wanted: Wanted = "auto"
    trier: Trier | None = None

    def load(self, bundle: Bundle, file: Path | None = None) -> Model:
        """The model, measured first where that is needed. Raises BundleError or ProgramError.

        file: where the bundle stands, for the child. A bare file, which no hash vouches for, is tried in a
        child before it is loaded here for the first time.
        """
        choice = self.choose(bundle, file)
        if choice.role is None:
            raise ProgramError(f"{bundle.source}: {choice.why}")
        try:
            return int8_model(bundle, self.options, choice.role, choice.why)
        except ProgramError as error:
            others = [role for role in possible(bundle, self.wanted)[0] if role != choice.role]
            if not others:
                raise
            log.error("%s; its other form runs", error)
            return int8_model(bundle, self.options, others[0], f"the other form does not load: {error}")

    def choose(self, bundle: Bundle, file: Path | None) -> Choice:
        """The form to run; measured and kept where it is not known yet. Raises BundleError."""
        roles, why = possible(bundle, self.wanted)
        known = self.choices.find(bundle.digest, self.options)
        if known is not None and known.role in roles:
            return known if not why else msgspec.structs.replace(known, why=why)
        if len(roles) == 1 and not isinstance(bundle, BareBundle):
            return self._choice(bundle, roles[0], why)
        if self.trier is None or file is None:
            return self._choice(bundle, roles[0], why or "not measured yet")
        trier = self.trier
        try:
            measured = {
                role: trier.measured(trier.candidate(bundle, file, self.options, role)) for role in roles
            }
        except ChildError as error:
            return self._choice(bundle, roles[0], f"it could not be measured: {error}")
        role, found = better(measured)
        choice = self._choice(bundle, role, found if role is None else why or found)
        if role is not None:
            log.info("%s %s runs in %s: %s", bundle.manifest.name, bundle.manifest.version,
                     bundle.manifest.programs[role].runtime, choice.why)  # fmt: skip
            self.choices.keep(choice)
        return choice

    def settle(self, digest: str, measured: Mapping[InferRole, Measured | str]) -> Choice:
        """Choose among forms that were measured elsewhere, and keep it."""
        role, why = better(measured)
        choice = Choice(digest, self.options.threads, self.options.providers, role, why)
        if role is not None:
            self.choices.keep(choice)
        return choice

    def role(self, bundle: Bundle) -> InferRole:
        """The form that runs, by what is known. Raises BundleError."""
        return self.choose(bundle, None).role or FORMS[0]

    def _choice(self, bundle: Bundle, role: InferRole | None, why: str) -> Choice:
        return Choice(bundle.digest, self.options.threads, self.options.providers, role, why)
