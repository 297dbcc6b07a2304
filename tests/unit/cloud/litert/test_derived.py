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


class NormFirst(nn.Module):
    """As in a transformer's block: over the channels of (n, steps, channels)."""

    def __init__(self):
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(3), nn.Linear(3, 4)

    def forward(self, x):
        return self.dense(self.norm(x.transpose(1, 2)))


def exported(module, shape):
    """(predict.onnx of the module with parameters of chance, these, windows, what the module gives)."""
    torch.manual_seed(0)
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
    return onnx, flat.numpy(), x, predict(flat, x)[0].detach()


def test_a_dense_layer_with_the_scale_and_shift_in_front_of_it_gives_what_both_do():
    onnx, flat, x, wanted = exported(NormFirst().eval(), (3, 8))
    found = derived(onnx, flat)
    plain = nn.functional.layer_norm(x.transpose(1, 2), (3,))
    weight, bias = (torch.from_numpy(found[f"front.0.{name}"]) for name in ("weight", "bias"))
    np.testing.assert_allclose(nn.functional.linear(plain, weight, bias), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_folded_layer_alone_gives_what_layer_and_normalisation_do(kind):
    layer, norm, shape = LAYERS[kind]
    onnx, flat, x, wanted = exported(nn.Sequential(layer(), norm()).eval(), shape)
    found = derived(onnx, flat)
    last = max(int(name.split(".")[1]) for name in found if name.endswith(".weight"))
    weight = torch.from_numpy(found[f"0.{last}.weight"])
    bias = torch.from_numpy(found.get(f"0.{last}.bias", found[f"0.{last}.shift"]))
    if kind == "dense":
        again = nn.functional.linear(x.flatten(1), weight, bias)
    else:
        again = nn.functional.conv1d(x, weight, bias, groups=3 if kind == "depthwise" else 1)
    np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-5)
