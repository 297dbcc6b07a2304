"""Federated averaging (McMahan et al., arXiv 1602.05629), with an optional server momentum.

``theta[t+1] = theta[t] + rate * v``, ``v = momentum * v + sum_k (n_k / N) * delta_k`` (FedAvgM,
Hsu et al., arXiv 1909.06335); momentum 0 is plain FedAvg.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from marram_cloud.strategies.strategy import Vector


class FedAvg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fedavg", tag_field="type"):
    """Federated averaging.

    rate: the server's step size.
    momentum: how much of the last step goes on; 0 for plain FedAvg.
    """

    rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0

    def step(
        self, parameters: Vector, mean_delta: Vector, state: Vector | None
    ) -> tuple[Vector, Vector | None]:
        """See ``Strategy.step``."""
        if self.momentum == 0.0:
            return parameters + self.rate * mean_delta, None
        velocity = mean_delta if state is None else self.momentum * state + mean_delta
        return parameters + self.rate * velocity, velocity
