"""int8 copies of the networks: static, per channel, QDQ, calibrated on training pictures.

Depthwise convolutions may stay fp32: each of their channels has its own weights, yet their activations have one
range for all, and where channels differ much that ruins the network.  equalise.py makes them alike.
Weights keep seven of their eight bits (`reduce_range`): on x86 without VNNI two 8-bit products can overflow the
16-bit sum they are added in, and a box in a restaurant may well be without.

They take bytes, as the networks they are made from do (front.py).  Where the first convolution is int8 too, the bytes
are what it multiplies.
"""

from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import front


class Pictures(CalibrationDataReader):
    def __init__(self, name, tensors):
        self.left = iter([{name: t} for t in tensors])

    def get_next(self):
        return next(self.left, None)


def quantise(source, target, tensors, keep_float=(), op_types=("Conv", "Gemm", "MatMul"), depthwise=False, reduce_range=True):
    """Writes `target`; nodes whose name holds (or, after a ^, begins with) one of
    `keep_float` stay fp32, without `depthwise` such convolutions too."""
    source, target = Path(source), Path(target)
    ready = target.with_suffix(".ready")
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    model = onnx.load(str(ready))
    spared = lambda name, k: name.startswith(k[1:]) if k[0] == "^" else k in name
    grouped = lambda n: n.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in n.attribute)
    float_nodes = [n.name for n in model.graph.node if (grouped(n) and not depthwise) or any(spared(n.name, k) for k in keep_float)]
    part = target.with_suffix(".part")
    exact = front.exact(model.graph)
    quantize_static(str(ready), str(part), Pictures(model.graph.input[0].name, tensors), quant_format=QuantFormat.QDQ,
                    per_channel=True, reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax, op_types_to_quantize=list(op_types),
                    nodes_to_exclude=float_nodes, extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.05, "TensorQuantOverrides": exact})
    if exact:
        front.straight(part)
    ready.unlink()
    part.replace(target)
