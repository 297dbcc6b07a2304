"""From a forest to the programs and members of its bundle; also for releases, without scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from marram.bundle.file import PARAMETERS, encode_parameters
from marram.bundle.forest import Layout
from marram.bundle.manifest import Manifest, ProgramFile, Role
from numpy.typing import NDArray

from marram_cloud.compression.programs import program_file
from marram_cloud.trees import programs

FILES: dict[str, Role] = {
    "features.onnx": "features", "predict.onnx": "predict", "evaluate.onnx": "evaluate",
    "infer.onnx": "infer",
}  # fmt: skip


@dataclass(frozen=True)
class Programs:
    """A forest's programs by the names of their files."""

    files: dict[str, bytes]

    @staticmethod
    def of(features: bytes, layout: Layout, vector: NDArray[np.float32]) -> Programs:
        """vector: float32 (P,), the forest that ``infer.onnx`` holds. Raises BundleError where it is none."""
        return Programs(
            {
                "features.onnx": features,
                "predict.onnx": programs.predict(features, layout),
                "evaluate.onnx": programs.evaluate(features, layout),
                "infer.onnx": programs.infer(features, layout, vector),
            }
        )

    def entries(self) -> dict[Role, ProgramFile]:
        """For the manifest."""
        return {role: program_file(file, self.files[file]) for file, role in FILES.items()}


def with_forest(
    manifest: Manifest, members: Mapping[str, bytes], vector: NDArray[np.float32]
) -> dict[str, bytes]:
    """The members of a forest's bundle with another forest in its parameters and ``infer.onnx``.

    vector: float32 (P,). Raises BundleError where it is no forest.
    """
    features = members[manifest.programs["features"].file]
    infer = programs.infer(features, Layout.of(manifest), vector)
    return {
        **members, PARAMETERS: encode_parameters(manifest, vector), manifest.programs["infer"].file: infer,
    }  # fmt: skip
