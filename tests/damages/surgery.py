"""What damages are made with: finding nodes, changing constants, putting nodes in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dynexport.formats.metadata import Metadata
from dynexport.graph.constants import add_constant
from dynexport.graph.quantise import quantise_weights

Array = NDArray[Any]
Change = Callable[[Array], Array]


@dataclass(frozen=True)
class Parts:
    """Where things are in a family's graph, by the names of modules.

    convolution  one whose kernel covers more than a pixel; empty where there is none
    block        one behind the second pruning stage
    attention    where its Softmax stands; empty where there is none
    norm         a LayerNorm with scale and offset
    widen, narrow, square  the MLP's two Linears, and one as wide as it is high
    fast         the fast path's Linear; empty where there is none
    """

    convolution: str
    block: str
    attention: str
    norm: str
    widen: str
    narrow: str
    square: str
    fast: str = ""


PARTS = {
    **{
        family: Parts(
            convolution,
            "blocks.2",
            attention,
            "blocks.2.norm2",
            "blocks.2.mlp.fc1",
            "blocks.2.mlp.fc2",
            "blocks.2.attn.proj",
        )
        for family, convolution, attention in (
            ("deit", "patch_embed.proj", "blocks.2.attn"),
            ("lvvit", "patch_embed.conv1", "blocks.2.attn"),
            ("evit", "patch_embed.proj", "blocks.2"),
        )
    },
    "swin": Parts(
        "",
        "layers.2.blocks.2",
        "layers.2.blocks.2.attn",
        "norm",
        "layers.2.blocks.2.mlp.fc1",
        "layers.2.blocks.2.mlp.fc2",
        "layers.2.blocks.2.attn.proj",
        "layers.2.blocks.2.fastmlp.fc1.0",
    ),
    "convnext": Parts(
        "stages.2.2.dwconv",
        "stages.2.2",
        "",
        "stages.3.0.norm",
        "stages.2.2.pwconv1",
        "stages.2.2.pwconv2",
        "stages.2.2.fast_path.0",
        "stages.2.2.fast_path.0",
    ),
}
"""Family -> where its parts are."""


@dataclass(frozen=True)
class Patient:
    """A graph to be damaged in place, what its metadata say, and where its parts are."""

    model: ir.Model
    facts: Metadata
    parts: Parts

    def nodes(self, op_type: str, scope: str = "") -> list[ir.Node]:
        """Nodes of this type whose name begins so, in order; at least one."""
        found = [
            node
            for node in self.model.graph
            if node.op_type == op_type and str(node.name).startswith(scope)
        ]
        assert found, f"no {op_type} in {scope or 'the graph'}"
        return found

    def node(self, name: str) -> ir.Node:
        """The node of this name."""
        return next(node for node in self.model.graph if node.name == name)

    def layer(self, module: str) -> ir.Node:
        """The product or convolution of a module."""
        kinds = ("MatMul", "Gemm", "Conv")
        return next(
            node for node in self.model.graph if node.name in {f"{module}/{k}" for k in kinds}
        )

    def norm(self) -> ir.Node:
        """A LayerNorm with scale and offset."""
        return self.node(f"{self.parts.norm}/LayerNormalization")

    def bias(self, module: str) -> tuple[ir.Node, int]:
        """The Add of a Linear's bias, and at which of its inputs that is."""
        add = self.node(f"{module}/Add")
        return add, next(p for p, v in enumerate(add.inputs) if v and root_of(v).const_value)

    def top_k(self, stage: int) -> ir.Node:
        """The node that chooses at a pruning stage."""
        name = self.facts.selected[stage]
        return next(
            node for node in self.model.graph if name in {value.name for value in node.outputs}
        )

    def gathers(self, stage: int) -> list[ir.Node]:
        """Every GatherND that moves rows a stage chose, for the slow path where there are two."""
        chosen = self.top_k(stage).outputs[1]
        users = [user for user, _ in chosen.uses()]
        splits = [user.outputs[0] for user in users if user.op_type == "Split"]
        users += [user for value in splits for user, _ in value.uses()]
        return [user for user in users if user.op_type == "GatherND"]

    def constant(self, array: Any, like: ir.Value | None = None) -> ir.Value:
        """A new constant, of the type of ``like``."""
        array = np.asarray(array)
        if like is not None:
            assert like.dtype is not None
            array = array.astype(like.dtype.numpy())
        return add_constant(self.model, f"damage/{len(self.model.graph.initializers)}", array)

    def insert(
        self,
        value: ir.Value,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
    ) -> ir.Value:
        """Whoever uses ``value`` uses the output of a new node instead, which takes ``inputs``."""
        node = ir.node(op_type, inputs, attributes or {})
        return self.substitute(value, [node], node.outputs[0])

    def substitute(self, value: ir.Value, nodes: Sequence[ir.Node], new: ir.Value) -> ir.Value:
        """Whoever uses ``value``, these new nodes apart, uses ``new``, which they make of it."""
        first = len(self.model.graph)
        for place, node in enumerate(nodes):
            node.name = f"damage/{first + place}"
            for output in node.outputs:
                output.type = value.type
        uses = [(user, place) for user, place in value.uses() if user not in nodes]
        for user, place in uses:
            user.replace_input_with(place, new)
        maker = value.producer()
        if maker is None:
            self.model.graph.insert_before(self.model.graph[0], nodes)
        else:
            self.model.graph.insert_after(maker, nodes)
        for place, end in enumerate(self.model.graph.outputs):
            if end is value:
                new.shape, new.name, value.name = value.shape, value.name, f"{value.name}/sound"
                self.model.graph.outputs[place] = new
        return new

    def change(self, node: ir.Node, place: int, change: Change) -> None:
        """One node's constant is what ``change`` makes of it, whoever else uses the same."""
        value = node.inputs[place]
        assert value is not None
        maker = value.producer()
        if maker is not None and maker.op_type == "DequantizeLinear":
            axis = maker.attributes.get_int("axis", 1)
            steps, scales = quantise_weights(change(content(value)).astype(np.float32), axis)
            maker.replace_input_with(0, self.constant(steps))
            maker.replace_input_with(1, self.constant(scales))
        else:
            node.replace_input_with(place, self.constant(change(content(value)), value))

    def swap(self, first: tuple[ir.Node, int], second: tuple[ir.Node, int]) -> None:
        """Two inputs of nodes change places."""
        values = [node.inputs[place] for node, place in (first, second)]
        first[0].replace_input_with(first[1], values[1])
        second[0].replace_input_with(second[1], values[0])


def root_of(value: ir.Value) -> ir.Value:
    """The constant behind a DequantizeLinear or a Cast, or the value itself."""
    maker = value.producer()
    while maker is not None and maker.op_type in ("DequantizeLinear", "Cast"):
        assert maker.inputs[0] is not None
        value = maker.inputs[0]
        maker = value.producer()
    return value


def content(value: ir.Value) -> Array:
    """What a constant holds, quantised or not, to be changed freely."""
    root, maker = root_of(value), value.producer()
    assert root.const_value is not None, f"{value.name} is not constant"
    array: Array = root.const_value.numpy()
    if maker is None or maker.op_type != "DequantizeLinear":
        return array.copy()
    scales = maker.inputs[1]
    assert scales is not None
    assert scales.const_value is not None
    axis = maker.attributes.get_int("axis", 1)
    return np.asarray(array * np.expand_dims(scales.const_value.numpy(), 1 - axis))
