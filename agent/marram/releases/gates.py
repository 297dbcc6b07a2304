"""May a candidate replace the model that runs? A pure judgement over what was measured of both."""

from __future__ import annotations

import msgspec

_MEMORY_ALWAYS = 32 << 20
_MICROSECONDS_ALWAYS = 200.0


class Limits(msgspec.Struct, frozen=True):
    """latency, memory: times what the running model takes. agreement: least share of equal predictions.

    accuracy: most that the accuracy on labelled windows may fall, 0 to 1. labelled: windows that an accuracy
    needs to count.
    """

    latency: float
    memory: float
    agreement: float
    accuracy: float
    labelled: int


class Measured(msgspec.Struct, frozen=True):
    """A model on some windows.

    errors: windows on which it failed, not_finite: of these because of NaN or infinity; problem: the first
    failure's words. cpu_us: processor time per window, median, microseconds; 0 when it was not measured.
    memory: bytes that loading and running it took. compared, agreed: windows that the running model predicted
    too, and those with the same label. labelled: windows with a label that both predicted; correct,
    running_correct: those that it and the running model predicted right.
    """

    windows: int = 0
    errors: int = 0
    not_finite: int = 0
    problem: str = ""
    cpu_us: float = 0.0
    memory: int = 0
    compared: int = 0
    agreed: int = 0
    labelled: int = 0
    correct: int = 0
    running_correct: int = 0


def together(live: Measured, stored: Measured) -> Measured:
    """The live measurement with what both models said of stored windows added.

    Live windows follow each other and are often of one label: a model that guesses that one would look right.
    """
    return msgspec.structs.replace(
        live,
        compared=live.compared + stored.compared,
        agreed=live.agreed + stored.agreed,
        labelled=live.labelled + stored.labelled,
        correct=live.correct + stored.correct,
        running_correct=live.running_correct + stored.running_correct,
    )


def judge(candidate: Measured, running: Measured, limits: Limits) -> str:
    """Why the candidate may not run, all reasons; "" when it may. running: measured of the running model."""
    reasons = (
        _failures(candidate),
        _latency(candidate, running, limits),
        _memory(candidate, running, limits),
        _accuracy(candidate, limits),
        _agreement(candidate, limits),
    )
    return "; ".join(reason for reason in reasons if reason)


def _failures(candidate: Measured) -> str:
    if candidate.not_finite:
        return (
            f"gave NaN or infinity on {candidate.not_finite} of {candidate.windows} windows"
            f" ({candidate.problem})"
        )
    if candidate.errors:
        return f"failed on {candidate.errors} of {candidate.windows} windows ({candidate.problem})"
    return ""


def _latency(candidate: Measured, running: Measured, limits: Limits) -> str:
    most = max(limits.latency * running.cpu_us, running.cpu_us + _MICROSECONDS_ALWAYS)
    if not running.cpu_us or candidate.cpu_us <= most:
        return ""
    return (
        f"takes {candidate.cpu_us:.0f} us of processor time a window, the running model "
        f"{running.cpu_us:.0f} us; at most {limits.latency:g} times that is allowed"
    )


def _memory(candidate: Measured, running: Measured, limits: Limits) -> str:
    most = max(limits.memory * running.memory, running.memory + _MEMORY_ALWAYS)
    if not running.memory or candidate.memory <= most:
        return ""
    return (
        f"takes {candidate.memory / 2**20:.0f} MiB of memory, the running model "
        f"{running.memory / 2**20:.0f} MiB; at most {limits.memory:g} times that is allowed"
    )


def _accuracy(candidate: Measured, limits: Limits) -> str:
    if candidate.labelled < limits.labelled:
        return ""
    own, running = (part / candidate.labelled for part in (candidate.correct, candidate.running_correct))
    if own >= running - limits.accuracy:
        return ""
    return (
        f"is right on {own:.0%} of {candidate.labelled} labelled windows, the running model on {running:.0%}"
    )


def _agreement(candidate: Measured, limits: Limits) -> str:
    """Labels say more than agreement: a model that is at least as right may well disagree."""
    if not candidate.compared or candidate.agreed >= limits.agreement * candidate.compared:
        return ""
    if candidate.labelled >= limits.labelled and candidate.correct >= candidate.running_correct:
        return ""
    return (
        f"agrees with the running model on {candidate.agreed / candidate.compared:.0%} of "
        f"{candidate.compared} windows; at least {limits.agreement:.0%} are needed"
    )
