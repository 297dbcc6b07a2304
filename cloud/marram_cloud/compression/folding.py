"""``predict.onnx`` with its parameters put in and everything computed that depends on no input.

The weights come out as initialisers under the names that they have in ``predict.onnx``. So what is said of a
tensor here, its range or its place, also holds there.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from marram_cloud.compression.errors import CompressionError
from marram_cloud.compression.skeleton import skeleton


def fold(predict: bytes, parameters: NDArray[np.float32]) -> onnx.ModelProto:
    """predict: ONNX bytes. parameters: float32 (P,). Every node of the result has a name of its own.

    Raises CompressionError for parameters that are not finite.
    """
    wrong = int((~np.isfinite(parameters)).sum())
    if wrong:
        raise CompressionError(
            f"{wrong} of {len(parameters)} parameters {'is' if wrong == 1 else 'are'} NaN or infinite: take "
            "the parameters from before that training"
        )
    folded = skeleton(predict).with_parameters(parameters)
    # Left in, the shapes of all values would be a third of a small model's bytes.
    del folded.graph.value_info[:]
    taken: set[str] = set()
    for number, node in enumerate(folded.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return folded
