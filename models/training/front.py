"""The front of a network as the application feeds it: the pixels' bytes (`input.type = "u8"` in the card).

A quarter of the memory of floats for a core to write and for another layer of caches to carry, and nothing but the
network's first step reads them.  What a rewritten network answers differs from before by what a sum in another order
does.

The detector's first step was to sort the pixels of every 2 x 2 into twelve planes and look at 3 x 3 of those: that is
one convolution of 6 x 6 over the picture, two pixels at a time, which takes 0.93 of the whole network's time.  The
classifiers turned the planes round, subtracted and divided: the first and the last are the convolution's weights.
Subtracting stays, since what a convolution pads with is nought behind it.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PHASES = ((0, 0), (1, 0), (0, 1), (1, 1))  # rows and columns, in the order of net.space_to_depth


def take_bytes(path):
    """Rewrites a network of floats of 0 to 255."""
    model = onnx.load(str(path))
    graph = model.graph
    pixels = graph.input[0]
    if pixels.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ValueError(f"{path}: its input is no float")
    if chain := normalisation(graph):
        _, minus, by = chain
        taker = conv = takers(graph, by.output[0])[0]
        while conv.op_type != "Conv":  # padding may be a step of its own
            conv = takers(graph, conv.output[0])[0]
        weights, less, part = (of(graph, name) for name in (conv.input[1], minus.input[1], by.input[1]))
        if less.size != 1 or part.size != 1:
            raise ValueError(f"{path}: its planes are not all treated alike: {less}, {part}")
        put(graph, conv.input[1], weights[:, ::-1] / part)
        minus.input[0] = "floats"
        taker.input[0] = minus.output[0]
    else:
        conv = next(n for n in graph.node if n.op_type == "Conv")
        put(graph, conv.input[1], whole_stem(of(graph, conv.input[1])))
        conv.input[0] = "floats"
        for a in conv.attribute:
            if a.name in SIX:
                a.ints[:] = SIX[a.name]
    pixels.type.tensor_type.elem_type = TensorProto.UINT8
    graph.node.insert(0, helper.make_node("Cast", [pixels.name], ["floats"], name="floats", to=TensorProto.FLOAT))
    prune(graph)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


SIX = {"kernel_shape": [6, 6], "pads": [2, 2, 2, 2], "strides": [2, 2]}


def whole_stem(weights):
    """3 x 3 over the twelve planes as 6 x 6 over three."""
    out = np.zeros((len(weights), 3, 6, 6), np.float32)
    for k, (down, across) in enumerate(PHASES):
        out[:, :, down::2, across::2] = weights[:, 3 * k:3 * k + 3]
    return out


def sorted_stem(weights):
    """And back."""
    return np.concatenate([weights[:, :, down::2, across::2] for down, across in PHASES], 1)


def straight(path):
    """In a quantised classifier the bytes are the first quantised tensor: nothing is left before the convolution."""
    model = onnx.load(str(path))
    graph = model.graph
    pixels = graph.input[0].name
    cast = takers(graph, pixels)[0]
    minus = takers(graph, cast.output[0])[0]
    small = takers(graph, minus.output[0])[0]
    zero = of(graph, minus.input[1])
    if (cast.op_type, minus.op_type, small.op_type) != ("Cast", "Sub", "QuantizeLinear"):
        raise ValueError(f"{path}: begins with {cast.op_type}, {minus.op_type}, {small.op_type}")
    if (of(graph, small.input[1]), of(graph, small.input[2])) != (1.0, zero):
        raise ValueError(f"{path}: a byte is not what is quantised")
    takers(graph, small.output[0])[0].input[0] = pixels
    prune(graph)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def exact(graph):
    """What quantising must leave of a classifier's front for `straight`: a step is one, nought is what is subtracted."""
    minus = takers(graph, "floats")[0]
    if minus.op_type != "Sub":
        return {}
    return {minus.output[0]: [{"scale": np.array(1, np.float32), "zero_point": np.array(of(graph, minus.input[1]), np.uint8)}]}


def normalisation(graph):
    nodes, name = [], graph.input[0].name
    for kind in ("Slice", "Sub", "Div"):
        node = takers(graph, name)[0]
        if node.op_type != kind:
            return None
        nodes.append(node)
        name = node.output[0]
    return nodes if len(takers(graph, name)) == 1 else None


def takers(graph, name):
    return [n for n in graph.node if name in n.input]


def of(graph, name):
    """A constant, wherever it stands."""
    for i in graph.initializer:
        if i.name == name:
            return numpy_helper.to_array(i)
    return next(numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant" and n.output[0] == name)


def put(graph, name, values):
    weights = next(i for i in graph.initializer if i.name == name)
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))


def prune(graph):
    """Without what nothing needs any more."""
    used = {o.name for o in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if used & set(node.output):
            nodes.insert(0, node)
            used |= set(node.input)
    tensors = [i for i in graph.initializer if i.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
