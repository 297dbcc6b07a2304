"""Small fp32 programs ``(parameters, x) -> outputs`` written by hand in ONNX's text form; no torch."""

from typing import Any

import numpy as np
import onnx

# A residual block: its sum has two readers on one side, as every skip connection.
RESIDUAL = """
<ir_version: 9, opset_import: ["" : 18]>
residual (float[316] parameters, float[batch, 3, 32] x) => (float[batch, 4] scores)
<int64[6] parts = {72, 8, 192, 8, 32, 4}, float half = {0.5}, int64[3] first = {8, 3, 3},
 int64[3] second = {8, 8, 3}, int64[2] last = {4, 8}, int64[2] flat = {0, -1}>
{
   a, a_bias, b, b_bias, c, c_bias = Split (parameters, parts)
   a_weight = Reshape (a, first)
   b_weight = Reshape (b, second)
   c_weight = Reshape (c, last)
   normal = Mul (x, half)
   made = Conv <pads = [1, 1]> (normal, a_weight, a_bias)
   entry = Relu (made)
   inner = Conv <pads = [1, 1]> (entry, b_weight, b_bias)
   sum = Add (inner, entry)
   block = Relu (sum)
   pooled = GlobalAveragePool (block)
   features = Reshape (pooled, flat)
   logits = Gemm <transB = 1> (features, c_weight, c_bias)
   scores = Softmax <axis = 1> (logits)
}
"""

# Attention of one head over 16 steps, and a normalisation of layers: most of it has no int8 form.
ATTENTION = """
<ir_version: 9, opset_import: ["" : 18]>
attention (float[136] parameters, float[batch, 4, 16] x) => (float[batch, 3] scores)
<int64[4] parts = {96, 8, 8, 24}, int64[2] first = {4, 24}, int64[3] copies = {16, 4, 24},
 int64[2] last = {8, 3}, int64[1] middle = {1}, float scale = {0.3535}>
{
   first_part, gain, shift, head = Split (parameters, parts)
   weight = Reshape (first_part, first)
   every_step = Expand (weight, copies)
   steps = Transpose <perm = [2, 0, 1]> (x)
   mixed = MatMul (steps, every_step)
   sequence = Transpose <perm = [1, 0, 2]> (mixed)
   q, k, v = Split <axis = 2, num_outputs = 3> (sequence)
   k_turned = Transpose <perm = [0, 2, 1]> (k)
   product = MatMul (q, k_turned)
   scaled = Mul (product, scale)
   weights = Softmax <axis = 2> (scaled)
   seen = MatMul (weights, v)
   normal = LayerNormalization <axis = -1> (seen, gain, shift)
   mean = ReduceMean <keepdims = 0> (normal, middle)
   head_weight = Reshape (head, last)
   logits = MatMul (mean, head_weight)
   scores = Softmax <axis = 1> (logits)
}
"""


def program(text: str) -> bytes:
    """The file of a program in ONNX's text form."""
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def drawn(text: str, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(parameters, 120 windows) at random for a program."""
    rng = np.random.default_rng(seed)
    inputs = {one.name: one for one in onnx.parser.parse_model(text).graph.input}
    sizes = {
        name: [size.dim_value for size in one.type.tensor_type.shape.dim] for name, one in inputs.items()
    }
    parameters = rng.normal(0, 0.4, sizes["parameters"]).astype(np.float32)
    return parameters, rng.normal(0, 1, (120, *sizes["x"][1:])).astype(np.float32)
