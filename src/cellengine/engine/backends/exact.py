"""What a detector decides by stays in fp32 when OpenVINO computes in bf16: boxes, rankings, comparisons, outputs.

bf16 knows 256 steps between two powers of two: at 300 px a corner moves by up to a pixel, two scores that differ become
the same, and another box is chosen. The library has a mark for nodes that keep their precision, which no function of
its Python interface sets; the text form of a model carries it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_LAYERS = frozenset({"Convolution", "ConvolutionBackpropData", "MatMul"})
"""layers, when their weights are stored: what they answer was computed in bf16, what is made of it is not"""
_DECIDING = frozenset({"Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "Result", "TopK"})
_SAME = frozenset({"Equal", "NotEqual"})
"""compare levels and classes: small whole numbers, exact in bf16 once they are computed; what is chosen by them may be
large, and would be kept in fp32 with them"""
_POOLING = "ROIAlign"
"""reads features, in bf16, at the places of boxes, which are not"""
_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""the library writes f16 for any smaller kind of number"""


def deciding_nodes(model: Any) -> set[str]:
    """Names of the nodes between the last layers and what is compared, ranked, pooled at or answered."""
    waiting: list[Any] = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in _DECIDING:
            waiting.append(node)
        elif kind in _SAME:
            waiting.extend(_sources(node))
        elif kind == _POOLING:
            waiting.extend(_sources(node)[1:])
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name not in found and not _is_bound(node):
            found.add(name)
            waiting.extend(_sources(node))
    return found


def keep_exact(core: Any, model: Any, names: Iterable[str]) -> Any:
    """A copy of the model in which the named nodes compute in fp32 in every precision."""
    import openvino

    wanted = set(names)
    with tempfile.TemporaryDirectory() as folder:
        text, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        openvino.save_model(model, text, compress_to_fp16=False)
        tree = ElementTree.parse(text)
        for layer in tree.iter("layer"):
            if layer.get("name") in wanted:
                ElementTree.SubElement(_runtime_info(layer), "attribute", _MARK)
        # read here, not from the file: the library would map it into memory, and it is gone after this
        return core.read_model(ElementTree.tostring(tree.getroot()), weights.read_bytes())


def _sources(node: Any) -> list[Any]:
    return [node.input_value(i).get_node() for i in range(node.get_input_size())]


def _is_bound(node: Any) -> bool:
    """Whether what lies before a node is computed in fewer bits, or is no number of the picture."""
    kind = node.get_type_name()
    if kind in _LAYERS:
        return not _depends_on_picture(_sources(node)[1])
    return kind in ("Constant", "Parameter", _POOLING)


def _depends_on_picture(node: Any) -> bool:
    """Whether an operand is computed; stored weights pass at most a few nodes that turn or convert them."""
    while node.get_type_name() in ("Convert", "Reshape", "Transpose", "Unsqueeze", "Multiply"):
        node = _sources(node)[0]
    return bool(node.get_type_name() != "Constant")


def _runtime_info(layer: ElementTree.Element) -> ElementTree.Element:
    """The element of a layer that holds its marks, in the place where the library looks for it: after its data."""
    found = layer.find("rt_info")
    if found is None:
        found = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, found)
    return found
