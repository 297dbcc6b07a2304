"""A release is tried and installed where the model that runs does not load any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from marram.bundle.file import parse
from marram.config.schema import Trial
from marram.programs.program import ProgramOptions
from marram.releases.forms import Choices, Forms
from marram.releases.gates import judge
from marram.releases.measuring import Pair
from marram.releases.swap import Swap
from marram.releases.talk import Candidate

from tests.support.releases import infer, released, spoilt

LIMITS = Trial().limits()


def candidate(path: Path, content: bytes, configured: Path) -> Candidate:
    path.write_bytes(content)
    return Candidate(
        path.stem, "1", str(path), "marram", str(configured), None, 1, ("CPUExecutionProvider",), 1 << 30, 0
    )


@pytest.mark.parametrize(
    ("program", "refusal"), [(infer("fine"), ""), (spoilt("trap"), "failed on 20 of 20")]
)
def test_the_candidate_is_judged_by_itself(tmp_path, program, refusal):
    broken = tmp_path / "broken.marram"
    running = candidate(broken, released("0", infer=b"nothing"), broken)
    pair = Pair.load(running, candidate(tmp_path / "new.marram", released("1", infer=program), broken))
    pair.run(np.full((20, 6, 100), 2e6, np.float32), [0] * 20)
    tried = pair.tried()
    assert tried.candidate.windows == 20
    reason = judge(tried.candidate, tried.running, LIMITS)
    assert reason == refusal if not refusal else refusal in reason


def test_a_candidate_that_does_not_load_is_refused_all_the_same(tmp_path):
    broken = tmp_path / "broken.marram"
    running = candidate(broken, released("0", infer=b"nothing"), broken)
    with pytest.raises(Exception, match="cannot load"):
        Pair.load(running, candidate(tmp_path / "new.marram", released("1", infer=b"no"), broken))


def test_what_cannot_be_fallen_back_on_does_not_keep_a_good_release_from_running(tmp_path):
    class Noted:
        def swap(self, model, fallback):
            self.model, self.fallback = model, fallback

    noted = Noted()
    swap = Swap(noted, Forms(Choices(tmp_path / "forms.json"), ProgramOptions()))  # type: ignore[arg-type]
    swap.swap(parse(released("1")), parse(released("0", infer=b"nothing")))
    assert (noted.model.name, noted.fallback) == ("shoulder 1", None)
    swap.swap(parse(released("1")), parse(released("0")))
    assert noted.fallback.name == "shoulder 0"
