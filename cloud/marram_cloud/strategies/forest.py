"""A forest that a fleet grows: each device sends trees of its own, and says how well the others' do.

In a round every tree of the forest is judged by the devices that did not grow it, on their held-out windows.
Its accuracy there says which trees stay when room is needed, and gives the weight of its vote
(``marram.bundle.forest.say``). New trees take the slots that are free and those of the worst old ones, up to
``renewed`` of all; the devices take turns, so that none fills the forest alone. Nobody has judged a new tree
yet: until the next round its vote weighs as the median of the others.

What a round says counts in full, what earlier ones said half as much with each round. Everything goes in the
order of the devices' names: the same contributions make the same forest, to the bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from marram.bundle.forest import Forest as Trees
from marram.bundle.forest import Layout, say
from marram.wire.trees import MOST_TREES, Contribution, Tree

from marram_cloud.strategies.strategy import Vector

_KEPT = 0.5


class Forest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="forest", tag_field="type"):
    """Trees of all devices, chosen and weighted by how they do on the others' windows.

    trees: new ones that a device sends in a round, at most.
    renewed: part of the slots that new trees may take from old ones in a round.
    """

    trees: Annotated[int, msgspec.Meta(ge=1, le=MOST_TREES)] = 4
    renewed: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25

    def merge(
        self, layout: Layout, parameters: Vector, told: Mapping[str, Contribution], state: Vector | None
    ) -> tuple[Vector, Vector]:
        """The next forest and state, both as they are given. told: by device.

        parameters: float64 (P,), the forest that was judged. state: float64 (3 * slots,), of each tree who
        grew it, and how many windows of others it got right of how many; None before the first round.
        """
        old = layout.unpack(parameters.astype(np.float32)).trees
        judged = _judged(len(old), told, state)
        # A tree without a split says the same of every window: it only stands for a forest without trees.
        useful = [record for record, tree in zip(judged, old, strict=True) if len(tree.feature)]
        room = max(layout.slots - len(useful), math.ceil(self.renewed * layout.slots))
        new = _in_turn(told, room)
        best = sorted(useful, key=lambda one: (-one.accuracy, one.place))[: layout.slots - len(new)]
        votes = say(
            np.array([one.correct for one in best]),
            np.array([one.count for one in best]),
            layout.room.classes,
        )
        known = [vote for vote, one in zip(votes, best, strict=True) if one.count and vote > 0]
        usual = float(np.median(known)) if known else 1.0
        chosen = [
            (one, old[one.place], float(vote) if one.count else usual)
            for one, vote in zip(best, votes, strict=True)
        ]
        chosen += [(_Record(len(old), _number(device), 0.0, 0.0), tree, usual) for device, tree in new]
        chosen = [one for one in chosen if one[2] > 0]
        if not chosen:
            return parameters, _state(judged, layout)
        forest = Trees(tuple(tree for _, tree, _ in chosen), np.array([vote for _, _, vote in chosen]))
        return layout.pack(forest).astype(np.float64), _state([record for record, _, _ in chosen], layout)


@dataclass(frozen=True, slots=True)
class _Record:
    """What others said of a tree. place: in the forest that they judged. grower: a number for a device."""

    place: int
    grower: float
    correct: float
    count: float

    @property
    def accuracy(self) -> float:
        return (self.correct + 0.5) / (self.count + 1.0)


def _judged(trees: int, told: Mapping[str, Contribution], state: Vector | None) -> list[_Record]:
    """One for each tree of the forest, with what this round's devices said."""
    rows = np.zeros((trees, 3)) if state is None else state.reshape(-1, 3)[:trees] * (1.0, _KEPT, _KEPT)
    for device in sorted(told):
        others = rows[:, 0] != _number(device)
        rows[others, 1] += told[device].correct[others]
        rows[others, 2] += told[device].count
    return [_Record(place, *row) for place, row in enumerate(rows.tolist())]


def _state(records: list[_Record], layout: Layout) -> Vector:
    state = np.zeros((layout.slots, 3))
    for slot, one in enumerate(records):
        state[slot] = one.grower, one.correct, one.count
    return state.reshape(-1)


def _in_turn(told: Mapping[str, Contribution], room: int) -> list[tuple[str, Tree]]:
    """The first tree of each device, the second of each ..., as many as there is room for."""
    most = max((len(one.trees) for one in told.values()), default=0)
    turns = [
        (device, told[device].trees[place])
        for place in range(most)
        for device in sorted(told)
        if place < len(told[device].trees)
    ]
    return [(device, tree) for device, tree in turns if len(tree.feature)][:room]


def _number(device: str) -> float:
    """Another for every device, above 0, exact as a float64."""
    return float(1 + int.from_bytes(hashlib.sha256(device.encode()).digest()[:6], "big"))
