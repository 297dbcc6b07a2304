"""What a converter folds is calculated from predict.onnx: a layer and the normalisation behind it as one."""

import numpy as np
import pytest
import torch
from marram_cloud.litert.derived import derived
from marram_cloud.workshop.export import export
from torch import nn
from torch.func import functional_call

LAYERS = {
    "convolution": (lambda: nn.Conv1d(3, 4, 3), lambda: nn.BatchNorm1d(4), (3, 8)),
    "convolution without bias": (lambda: nn.Conv1d(3, 4, 3, bias=False), lambda: nn.BatchNorm1d(4), (3, 8)),
    "depthwise": (lambda: nn.Conv1d(3, 3, 3, groups=3), lambda: nn.BatchNorm1d(3), (3, 8)),
    "dense": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 4)), lambda: nn.BatchNorm1d(4), (3, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_folded_layer_alone_gives_what_layer_and_normalisation_do(kind):
    layer, norm, shape = LAYERS[kind]
    torch.manual_seed(0)
    module = nn.Sequential(layer(), norm()).eval()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors = {name: torch.rand_like(one) + 0.5 for name, one in tensors.items() if one.is_floating_point()}
    sizes = [one.numel() for one in tensors.values()]
    flat = torch.cat([one.reshape(-1) for one in tensors.values()])

    def predict(parameters, x):
        parts = zip(tensors.items(), torch.split(parameters, sizes), strict=True)
        given = {name: part.reshape(one.shape) for (name, one), part in parts}
        return (functional_call(module, given, (x,)),)

    x = torch.rand(5, *shape)
    onnx = export(predict, {"parameters": flat, "x": x}, ["y"], ["x"])
    found = derived(onnx, flat.numpy())
    last = max(int(name.split(".")[1]) for name in found if name.endswith(".weight"))
    weight = torch.from_numpy(found[f"0.{last}.weight"])
    bias = torch.from_numpy(found.get(f"0.{last}.bias", found[f"0.{last}.shift"]))
    if kind == "dense":
        again = nn.functional.linear(x.flatten(1), weight, bias)
    else:
        again = nn.functional.conv1d(x, weight, bias, groups=3 if kind == "depthwise" else 1)
    np.testing.assert_allclose(again, predict(flat, x)[0].detach(), rtol=1e-4, atol=1e-5)
