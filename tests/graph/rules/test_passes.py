"""Passes that make graphs of others lean: how often each applies, to what, and to what not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from made.small_graphs import apply, in_memory, operators, small_graph

from dynexport.graph.folding import fold_fixed_shapes
from dynexport.graph.opset import raise_opset
from dynexport.graph.rules.duplicates import merge_duplicates
from dynexport.graph.rules.gelu import recognise_gelus
from dynexport.graph.rules.layer_norm import recognise_layer_norms
from dynexport.graph.rules.log_softmax import rank_logits
from dynexport.graph.rules.row_gathers import gather_rows
from dynexport.graph.rules.scatters import merge_scatters
from dynexport.graph.rules.sorts import cut_sorts
from dynexport.graph.rules.uniform import simplify_uniform
from dynexport.graph.sizes import learn_sizes

SORT = "best, order = TopK <axis = 1> (scores, sixteen)\n"
FRONT = SORT + "kept = Slice (order, zero, six, one)\n"


@pytest.mark.parametrize(
    "read",
    [
        "y = Slice (order, zero, six, one)",
        "y = Slice (order, zero, six, last)",
        "y = Slice (order, zero, six, one, one)",
        "few = Constant <value_ints = [0, 1, 2, 3, 4, 5]> () y = Gather <axis = 1> (order, few)",
    ],
)
def test_a_sort_is_cut_to_what_is_read(read: str) -> None:
    count, graph = apply(cut_sorts, small_graph(SORT + read, "int64[2, 6] y"))
    assert count == 1
    assert operators(graph) == {"Reshape": 1, "Transpose": 1, "ReduceSum": 1, "TopK": 1}


def test_a_sort_of_which_two_lengths_are_read_is_cut_to_the_longer() -> None:
    body = FRONT + "y = Identity (kept) z = Slice (best, zero, two, one)"
    count, graph = apply(cut_sorts, small_graph(body, "int64[2, 6] y, float[2, 2] z"))
    assert count == 1
    (top_k,) = [node for node in graph.graph if node.op_type == "TopK"]
    assert top_k.inputs[1].const_value.numpy().tolist() == [6]
    assert operators(graph)["Slice"] == 1


def test_a_sort_of_negated_scores_becomes_one_from_the_other_end() -> None:
    body = "less = Neg (scores) best, order = TopK <axis = 1, largest = 0> (less, sixteen)\n"
    body += "y = Slice (order, zero, six, one)"
    count, graph = apply(cut_sorts, small_graph(body, "int64[2, 6] y"))
    assert count == 1
    assert operators(graph)["Neg"] == 0


@pytest.mark.parametrize(
    "body",
    [
        SORT + "y = Slice (order, six, end, one)",  # the back
        SORT + "y = Slice (order, zero, end, one)",  # all
        SORT + "y = Slice (order, zero, one, zero)",  # of the batch
        SORT + "y = Slice (order, zero, six, one, two)",  # every other
        FRONT + "y = Slice (order, six, end, one) z = Identity (kept)",  # both halves
        "best, order = TopK <axis = 1, sorted = 0> (scores, sixteen)\n"
        "y = Slice (order, zero, six, one)",  # in no order
        SORT + "picked = Constant <value_ints = [1, 0]> () y = Gather <axis = 1> (order, picked)",
    ],
)
def test_a_sort_that_is_read_otherwise_stays(body: str) -> None:
    outputs = "int64[?, ?] y" + (", int64[?, ?] z" if " z =" in body else "")
    assert apply(cut_sorts, small_graph(body, outputs))[0] == 0


LOGITS = """
    weight = Constant <value = float[3, 2] {0.3, -1.1, 0.7, 0.2, -0.5, 0.9}> ()
    bias = Constant <value = float[2] {0.1, -0.4}> ()
    zeroth = Constant <value_int = 0> ()
    first = Constant <value_int = 1> ()
    product = MatMul (x, weight)
    logits = Add (product, bias)
"""
RANKED = "best, y = TopK <axis = 1> (ranked, six)"


@pytest.mark.parametrize(
    "pick",
    [
        "ranked = Gather <axis = 2> (chances, zeroth)",
        "ranked = Gather <axis = -1> (chances, first)",
        "front = Slice (chances, zero, one, two) ranked = Squeeze (front, two)",
        "back = Slice (chances, one, end, last) ranked = Squeeze (back, last)",
        "one_only = Gather <axis = 2> (chances, zeroth) ranked = Neg (one_only)",
    ],
)
@pytest.mark.parametrize("operator", ["LogSoftmax", "Softmax"])
def test_a_softmax_that_is_only_ranked_by_is_dropped(pick: str, operator: str) -> None:
    body = f"{LOGITS} chances = {operator} <axis = -1> (logits) {pick} {RANKED}"
    count, graph = apply(rank_logits, small_graph(body, "int64[2, 6] y"))
    assert count == 1
    left = operators(graph)
    assert not left[operator]
    assert left["MatMul"] == left["Add"] == 1
    (product,) = [node for node in graph.graph if node.op_type == "MatMul"]
    assert list(product.outputs[0].shape) == [2, 16, 1]


def test_two_logits_from_elsewhere_are_subtracted() -> None:
    body = "pair = Slice (x, zero, two, two) chances = LogSoftmax <axis = -1> (pair)\n"
    body += "zeroth = Constant <value_int = 0> () ranked = Gather <axis = 2> (chances, zeroth)\n"
    count, graph = apply(rank_logits, small_graph(body + RANKED, "int64[2, 6] y"))
    assert count == 1
    assert operators(graph)["Sub"] == 1


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"chances = LogSoftmax (logits) ranked = Gather <axis = 2> (chances, zeroth) {RANKED}"
         " z = Identity (chances)", "int64[2, 6] y, float[2, 16, 2] z"),
        (f"chances = LogSoftmax (logits) ranked = Gather <axis = 2> (chances, zeroth) {RANKED}"
         " z = Identity (best)", "int64[2, 6] y, float[2, 6] z"),
        (f"chances = LogSoftmax <axis = 1> (logits) ranked = Gather <axis = 2> (chances, zeroth)"
         f" {RANKED}", "int64[2, 6] y"),
        (f"chances = LogSoftmax (x) ranked = Gather <axis = 2> (chances, zeroth) {RANKED}",
         "int64[2, 6] y"),
        ("chances = Softmax (logits) rated = Gather <axis = 2> (chances, zeroth)"
         f" ranked = Mul (rated, scores) {RANKED}", "int64[2, 6] y"),
    ],
    ids=["read", "values read", "other axis", "three classes", "weighted"],
)  # fmt: skip
def test_a_softmax_that_is_read_otherwise_stays(body: str, outputs: str) -> None:
    assert apply(rank_logits, small_graph(LOGITS + body, outputs))[0] == 0


def flat_gather(step: int = 16, batch: int = 2) -> str:
    offsets = ", ".join(str(image * step) for image in range(batch))
    return (
        FRONT + f"offsets = Constant <value = int64[{batch}, 1] {{{offsets}}}> ()\n"
        "rows = Add (kept, offsets) index = Reshape (rows, row)\n"
        f"long_x = Constant <value_ints = [{16 * batch}, 3]> () all = Reshape (x, long_x)\n"
        "taken = Gather <axis = 0> (all, index)\n"
        f"back = Constant <value_ints = [{batch}, 6, 3]> () y = Reshape (taken, back)"
    )


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_gather_on_the_flattened_batch_is_one_of_rows(batch: int) -> None:
    model = small_graph(flat_gather(batch=batch), f"float[{batch}, 6, 3] y", batch=batch)
    count, graph = apply(gather_rows, model, batch=batch, tolerance=0)
    assert count == 1
    left = operators(graph)
    assert left["GatherND"] == 1
    assert not left["Gather"] + left["Add"]
    assert left["Reshape"] == 1


OPEN_GATHER = (
    FRONT
    + """
    sizes = Shape (x)
    zeroth = Constant <value_int = 0> ()
    first = Constant <value_int = 1> ()
    images_here = Gather <axis = 0> (sizes, zeroth)
    counted = Range (zeroth, images_here, first)
    column = Constant <value_ints = [-1, 1]> ()
    numbers = Reshape (counted, column)
    offsets = Mul (numbers, {step})
    rows = Add (kept, offsets)
    index = Reshape (rows, row)
    long_x = Constant <value_ints = [-1, 3]> ()
    all = Reshape (x, long_x)
    taken = Gather <axis = 0> (all, index)
    back = Constant <value_ints = [-1, 6, 3]> ()
    y = Reshape (taken, back)
"""
)


@pytest.mark.parametrize("batch", [1, 3])
def test_so_it_is_where_the_batch_is_open(batch: int) -> None:
    model = small_graph(OPEN_GATHER.format(step="sixteen"), 'float["b", 6, 3] y', batch='"b"')
    count, graph = apply(gather_rows, model, batch=batch, tolerance=0)
    assert count == 1
    left = operators(graph)
    assert left["GatherND"] == 1
    assert not left["Range"] + left["Shape"] + left["Mul"]


@pytest.mark.parametrize(
    "body",
    [
        flat_gather(step=3),
        OPEN_GATHER.format(step="two"),
        # rows that come from the images, and may lie beyond their image
        flat_gather().replace("Add (kept, offsets)", "Add (wild, offsets)").replace(
            "offsets =", "some = Slice (scores, zero, six, one) wild = Cast <to = 7> (some)"
            " nobody = Abs (wild)\noffsets =", 1
        ),
        # of 16 rows and one: the seventeenth is the next image's first
        flat_gather().replace("Add (kept, offsets)", "Add (after, offsets)").replace(
            "offsets =", "after = Add (kept, one)\noffsets =", 1
        ),
    ],
    ids=["other step", "other step, open", "unbounded", "one too far"],
)  # fmt: skip
def test_a_gather_across_images_stays(body: str) -> None:
    model = small_graph(body, "float[2, 6, 3] y")
    graph = in_memory(model)
    before = operators(graph)
    assert gather_rows(graph) == 0
    assert operators(graph)["Gather"] == before["Gather"]


EXPANDED = (
    FRONT
    + """
    column = Unsqueeze (kept, two)
    whole = Constant <value_ints = [2, 6, 3]> ()
    index = Expand (column, whole)
    y = GatherElements <axis = 1> (x, index)
"""
)


def test_an_expanded_index_gathers_rows() -> None:
    count, graph = apply(gather_rows, small_graph(EXPANDED, "float[2, 6, 3] y"), tolerance=0)
    assert count == 1
    assert not operators(graph)["GatherElements"] + operators(graph)["Expand"]


def test_an_index_of_fewer_channels_stays() -> None:
    body = EXPANDED.replace("[2, 6, 3]", "[2, 6, 2]")
    assert apply(gather_rows, small_graph(body, "float[2, 6, 2] y"))[0] == 0


HALVES = (
    FRONT
    + """
    rest = Slice (order, six, end, one)
    column_a = Unsqueeze (kept, two)
    column_b = Unsqueeze (rest, two)
    whole_a = Constant <value_ints = [2, 6, 3]> ()
    whole_b = Constant <value_ints = [2, 10, 3]> ()
    index_a = Expand (column_a, whole_a)
    index_b = Expand (column_b, whole_b)
    a0 = GatherElements <axis = 1> (x, index_a)
    b0 = GatherElements <axis = 1> (x, index_b)
    a = Exp (a0)
    b = Neg (b0)
    before = Sin (x)
    half = ScatterElements <axis = 1> (before, index_a, a)
    y = ScatterElements <axis = 1> (half, index_b, b)
"""
)


def test_two_halves_are_put_back_by_one_gather() -> None:
    count, graph = apply(merge_scatters, small_graph(HALVES, "float[2, 16, 3] y"), tolerance=0)
    assert count == 1
    left = operators(graph)
    assert left["ScatterElements"] == 1  # of the inverse order
    assert left["Concat"] == left["GatherND"] == 1
    assert not left["Sin"]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("rest = Slice (order, six, end, one)", "rest = Slice (order, zero, ten, one)"),
        ("<axis = 1> (half, index_b, b)", '<axis = 1, reduction = "add"> (half, index_b, b)'),
        ("(scores, sixteen)", "(scores, sixteen) order = Slice (shuffled, zero, end, one)"),
    ],
    ids=["overlap", "sum", "no order"],
)
def test_other_pairs_of_scatters_stay(was: str, becomes: str) -> None:
    body = "ten = Constant <value_ints = [10]> ()" + HALVES.replace(was, becomes, 1)
    if "shuffled" in becomes:
        body = body.replace("best, order = TopK", "best, shuffled = TopK")
    assert apply(merge_scatters, small_graph(body, "float[2, 16, 3] y"))[0] == 0


NORM = """
    rate = Constant <value_float = 2.0> ()
    tiny = Constant <value_float = 1e-5> ()
    scale = Constant <value = float[3] {0.5, 1.5, -2.0}> ()
    offset = Constant <value = float[3] {0.1, 0.2, -0.3}> ()
    mean = ReduceMean (x, last)
    centred = Sub (x, mean)
    square = Pow (centred, rate)
    variance = ReduceMean (square, last)
    safe = Add (variance, tiny)
    root = Sqrt (safe)
    normal = Div (centred, root)
    scaled = Mul (normal, scale)
    y = Add (scaled, offset)
"""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("", ""),
        ("Pow (centred, rate)", "Mul (centred, centred)"),
        ("Add (variance, tiny)", "Add (tiny, variance)"),
        ("Mul (normal, scale)", "Mul (scale, normal)"),
        ("normal = Div (centred, root)", "over = Reciprocal (root) normal = Mul (centred, over)"),
        ("normal = Div (centred, root)", "over = Reciprocal (root) normal = Mul (over, centred)"),
        ("square = Pow (centred, rate)", "again = Sub (x, mean) square = Pow (again, rate)"),
    ],
)
def test_a_spelled_layer_norm_is_one_operator(was: str, becomes: str) -> None:
    model = small_graph(NORM.replace(was, becomes, 1), "float[2, 16, 3] y")
    count, graph = apply(recognise_layer_norms, model, tolerance=1e-5)
    assert count == 1
    assert operators(graph) == {"Reshape": 1, "Transpose": 1, "LayerNormalization": 1}


def test_a_norm_without_scale_and_offset_is_one_too() -> None:
    body = NORM.replace("y = Add (scaled, offset)", "y = Tanh (normal)")
    count, graph = apply(recognise_layer_norms, small_graph(body, "float[2, 16, 3] y"))
    assert count == 1
    assert operators(graph)["LayerNormalization"] == 1


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("ReduceMean (square, last)", "ReduceMean (square, one)"),
        ("value_float = 2.0", "value_float = 3.0"),
        ("square = Pow (centred, rate)", "square = Pow (x, rate)"),
        ("safe = Add (variance, tiny)\n    root = Sqrt (safe)",
         "outer = Sqrt (variance) root = Add (outer, tiny)"),
        ("(x, last)\n    centred", "(x, one)\n    centred"),
        ("normal = Div (centred, root)", "normal = Mul (centred, root)"),
    ],
)  # fmt: skip
def test_what_is_no_layer_norm_stays(was: str, becomes: str) -> None:
    assert was in NORM
    model = small_graph(NORM.replace(was, becomes, 1), "float[2, 16, 3] y")
    assert apply(recognise_layer_norms, model)[0] == 0


GELU = """
    half = Constant <value_float = 0.5> ()
    unit = Constant <value_float = 1.0> ()
    twice = Constant <value_float = 2.0> ()
    root2 = Constant <value_float = 1.4142135> ()
    over_root2 = Constant <value_float = 0.70710677> ()
    cube_rate = Constant <value_float = 0.044715> ()
    three = Constant <value_float = 3.0> ()
    root_2_pi = Constant <value_float = 0.7978845608> ()
"""
BY_ERF = "inside = Div (x, root2) spread = Erf (inside) more = Add (spread, unit)\n"
BY_TANH = (
    "cube = Pow (x, three) part = Mul (cube, cube_rate) sum = Add (x, part)\n"
    "inside = Mul (sum, root_2_pi) spread = Tanh (inside) more = Add (unit, spread)\n"
)


@pytest.mark.parametrize(
    "product",
    [
        "whole = Mul (x, more) y = Mul (whole, half)",
        "whole = Mul (more, x) y = Mul (half, whole)",
        "part_x = Mul (x, half) y = Mul (part_x, more)",
        "part_x = Mul (half, x) y = Mul (more, part_x)",
        "part_m = Mul (more, half) y = Mul (x, part_m)",
        "whole = Mul (x, more) y = Div (whole, twice)",
    ],
)
@pytest.mark.parametrize("inner", [BY_ERF, BY_TANH], ids=["erf", "tanh"])
def test_a_spelled_gelu_is_one_operator(inner: str, product: str) -> None:
    model = small_graph(GELU + inner + product, "float[2, 16, 3] y", opset=17)
    count, graph = apply(recognise_gelus, model)
    assert count == 1
    assert operators(graph) == {"Reshape": 1, "Transpose": 1, "Gelu": 1}
    assert graph.opset_imports[""] == 20


@pytest.mark.parametrize(
    "body",
    [
        BY_ERF.replace("root2", "over_root2") + "whole = Mul (x, more) y = Mul (whole, half)",
        BY_ERF + "whole = Mul (x, more) y = Mul (whole, twice)",
        BY_ERF + "whole = Mul (inside, more) y = Mul (whole, half)",
        BY_ERF.replace("unit", "half") + "whole = Mul (x, more) y = Mul (whole, half)",
        BY_ERF + "whole = Mul (x, more) again = Mul (whole, half) y = Mul (more, again)",
        BY_TANH.replace("three", "twice") + "whole = Mul (x, more) y = Mul (whole, half)",
    ],
)
def test_what_is_no_gelu_stays(body: str) -> None:
    assert apply(recognise_gelus, small_graph(GELU + body, "float[2, 16, 3] y"))[0] == 0


def test_a_gelu_stays_where_the_opset_cannot_be_raised() -> None:
    """Resize changed its meaning on the way."""
    body = GELU + BY_ERF + "whole = Mul (x, more) part = Mul (whole, half)\n"
    body += "scales = Constant <value_floats = [1.0, 1.0, 2.0]> () y = Resize (part, , scales)"
    graph = in_memory(small_graph(body, "float[2, 16, 6] y", opset=17))
    assert recognise_gelus(graph) == 0
    assert operators(graph)["Erf"] == 1


@pytest.mark.parametrize("opset", [13, 15, 17, 19])
def test_a_graph_means_the_same_in_a_later_opset(opset: int) -> None:
    axes = "mean = ReduceMean <axes = [1], keepdims = 1> (x) big = ReduceMax <axes = [2]> (x)\n"
    if opset >= 18:
        axes = "mean = ReduceMean (x, one) big = ReduceMax (x, two)\n"
    parts = "<axis = 1>" if opset < 18 else "<axis = 1, num_outputs = 2>"
    body = axes + f"a, b = Split {parts} (x) both = Sub (a, b) p = Mul (both, mean) y = Abs (p)"
    body += " z = Identity (big)"
    model = small_graph(body, "float[2, 8, 3] y, float[2, 16, 1] z", opset=opset)

    def raised(graph: ir.Model) -> int:
        return int(raise_opset(graph, 20))

    count, graph = apply(raised, model, tolerance=0)
    assert count == 1
    assert graph.opset_imports[""] == 20


def test_what_is_known_before_is_folded() -> None:
    body = """
        sizes = Shape (x)
        zeroth = Constant <value_int = 0> ()
        first = Constant <value_int = 1> ()
        n = Gather <axis = 0> (sizes, first)
        numbers = Range (zeroth, n, first)
        more = Cast <to = 1> (numbers)
        column = Unsqueeze (more, last)
        y = Mul (x, column)
    """
    count, graph = apply(fold_fixed_shapes, small_graph(body, "float[2, 16, 3] y"))
    assert count == 5
    assert operators(graph) == {"Reshape": 1, "Transpose": 1, "Mul": 1}


@pytest.mark.parametrize("batch", [1, 3])
def test_open_sizes_are_followed(batch: int) -> None:
    """What TorchScript writes for expand(b, -1, -1) and reshape(b, n, c)."""
    body = """
        sizes = Shape (x)
        zeroth = Constant <value_int = 0> ()
        b = Gather <axis = 0> (sizes, zeroth)
        b_row = Unsqueeze (b, zero)
        asked = Concat <axis = 0> (b_row, last, last)
        rank = Constant <value_ints = [3]> ()
        ones = ConstantOfShape <value = int64[1] {1}> (rank)
        less = Constant <value_int = -1> ()
        marks = Mul (ones, less)
        kept = Equal (asked, marks)
        target = Where (kept, ones, asked)
        token = Constant <value = float[1, 1, 3] {0.1, 0.2, 0.3}> ()
        tokens = Expand (token, target)
        joined = Concat <axis = 1> (tokens, x)
        shape_17 = Constant <value_ints = [51]> ()
        flat_target = Concat <axis = 0> (b_row, shape_17)
        y = Reshape (joined, flat_target)
    """
    model = small_graph(body, 'float["b", 51] y', batch='"b"')
    count, graph = apply(fold_fixed_shapes, model, batch=batch, tolerance=0)
    assert count == 7
    left = operators(graph)
    assert not left["Where"] + left["Equal"] + left["Mul"] + left["Unsqueeze"]
    (reshape,) = [n for n in graph.graph if n.op_type == "Reshape" and n.outputs[0].name == "y"]
    assert reshape.inputs[1].const_value.numpy().tolist() == [0, 51]


def test_a_known_condition_takes_its_branch() -> None:
    body = """
        sizes = Shape (x)
        zeroth = Constant <value_int = 2> ()
        three = Constant <value_int = 3> ()
        c = Gather <axis = 0> (sizes, zeroth)
        fits = Equal (c, three)
        y = If (fits) <
            then_branch = yes () => (float[2, 16, 3] picked) { picked = Neg (x) },
            else_branch = no () => (float[2, 16, 3] picked) { picked = Exp (x) }
        >
        z = If (fits) <
            then_branch = yes () => (float[2, 16, 3] picked) {
                rate = Constant <value_float = 2.0> () picked = Mul (x, rate) },
            else_branch = no () => (float[2, 16, 3] picked) { picked = Exp (x) }
        >
    """
    model = small_graph(body, "float[2, 16, 3] y, float[2, 16, 3] z")
    count, graph = apply(fold_fixed_shapes, model, tolerance=0)
    assert count >= 2
    assert operators(graph) == {"Reshape": 1, "Transpose": 1, "Neg": 1, "Mul": 1}


def test_a_condition_that_depends_on_images_stays() -> None:
    body = """
        top = ReduceMax <keepdims = 0> (images)
        limit = Constant <value_float = 1.0> ()
        bright = Greater (top, limit)
        y = If (bright) <
            then_branch = yes () => (float[2, 16, 3] picked) { picked = Neg (x) },
            else_branch = no () => (float[2, 16, 3] picked) { picked = Exp (x) }
        >
    """
    model = small_graph(body, "float[2, 16, 3] y", tokens=True)
    count, graph = apply(fold_fixed_shapes, model)
    assert count == 0
    assert operators(graph)["If"] == 1


def test_what_a_file_says_of_shapes_is_not_believed() -> None:
    """TorchScript writes sizes of the traced batch for values whose batch is open."""
    model = small_graph("sizes = Shape (x) y = Identity (sizes)", "int64[3] y", batch='"b"')
    wrong = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [7, 16, 3])
    model.graph.value_info.append(wrong)
    graph = in_memory(model)
    learn_sizes(graph)
    (x,) = [v for node in graph.graph for v in node.outputs if v.name == "x"]
    assert [str(size) for size in x.shape] == ["b", "16", "3"]


def test_ones_change_nothing_whoever_is_left() -> None:
    """The policy of a pruned model: ones, gathered, multiplied with, summed, divided by."""
    body = (
        FRONT
        + """
        filled = Constant <value_ints = [2, 16, 1]> ()
        policy = ConstantOfShape <value = float[1] {1.0}> (filled)
        column = Unsqueeze (kept, two)
        left = GatherND <batch_dims = 1> (policy, column)
        rows = GatherND <batch_dims = 1> (x, column)
        product = Mul (rows, left)
        total = ReduceSum (product, one)
        how_many = ReduceSum (left, one)
        share = Div (total, how_many)
        y = Abs (share)
    """
    )
    model = small_graph(body, "float[2, 1, 3] y")
    count, graph = apply(simplify_uniform, model)
    assert count == 2  # the product, and what the total is divided by
    left = operators(graph)
    assert left["GatherND"] == left["ReduceSum"] - 1 == 1  # one sum is of the scores
    assert not left["Mul"] + left["ConstantOfShape"]


def test_ones_that_widen_a_value_stay() -> None:
    body = """
        filled = Constant <value_ints = [2, 16, 1]> ()
        ones = ConstantOfShape <value = float[1] {1.0}> (filled)
        mean = ReduceMean (x, one)
        y = Mul (mean, ones)
    """
    assert apply(simplify_uniform, small_graph(body, "float[2, 16, 3] y"))[0] == 0


def test_the_same_is_computed_once() -> None:
    body = "a = Exp (x) b = Exp (x) c = Identity (b) y = Add (a, c)"
    count, graph = apply(merge_duplicates, small_graph(body, "float[2, 16, 3] y"))
    assert count == 2
    assert operators(graph)["Exp"] == 1


def test_an_output_keeps_its_name_whatever_stands_behind_it() -> None:
    model = small_graph(SORT + "y = Slice (order, zero, six, one)", "int64[2, 6] y")
    graph = in_memory(model)
    cut_sorts(graph)
    assert [value.name for value in graph.graph.outputs] == ["y"]
    assert np.prod([int(size) for size in graph.graph.outputs[0].shape]) == 12


PAIRS = (
    FRONT
    + """
    sizes = Shape (x)
    zeroth = Constant <value_int = 0> ()
    first = Constant <value_int = 1> ()
    b = Gather <axis = 0> (sizes, zeroth)
    counted = Range (zeroth, b, STEP)
    column = Unsqueeze (counted, one)
    wide = Constant <value_ints = [1, 6]> ()
    numbers = Expand (column, wide)
    numbers_3 = Unsqueeze (numbers, two)
    rows_3 = Unsqueeze (kept, two)
    pairs = Concat <axis = 2> (numbers_3, rows_3)
    y = GatherND (x, pairs)
"""
)


@pytest.mark.parametrize("batch", [1, 3])
def test_pairs_of_image_and_row_gather_rows(batch: int) -> None:
    """What dynamo writes for x[arange(b)[:, None], kept]."""
    model = small_graph(PAIRS.replace("STEP", "first"), 'float["b", 6, 3] y', batch='"b"')
    count, graph = apply(gather_rows, model, batch=batch, tolerance=0)
    assert count == 1
    assert not operators(graph)["Concat"] + operators(graph)["Range"]


def test_constant_pairs_gather_rows() -> None:
    body = (
        FRONT
        + """
        numbers = Constant <value = int64[2, 6, 1] {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1}> ()
        rows_3 = Unsqueeze (kept, two)
        pairs = Concat <axis = 2> (numbers, rows_3)
        y = GatherND (x, pairs)
    """
    )
    assert apply(gather_rows, small_graph(body, "float[2, 6, 3] y"), tolerance=0)[0] == 1
    other = body.replace("0, 0, 0, 0, 0, 0, 1", "1, 0, 0, 0, 0, 0, 1")
    assert apply(gather_rows, small_graph(other, "float[2, 6, 3] y"), tolerance=0)[0] == 0


def test_a_remainder_of_rows_that_are_below_is_nothing() -> None:
    """What take_along_dim becomes; where the rows may be too many it stays."""
    for size, gone in (("sixteen", 1), ("six", 0)):
        rest = f"below = Mod (index, {size})\n    y = GatherElements <axis = 1> (x, below)"
        body = EXPANDED.replace("y = GatherElements <axis = 1> (x, index)", rest)
        count, graph = apply(gather_rows, small_graph(body, "float[2, 6, 3] y"), tolerance=0)
        assert count == gone
        assert operators(graph)["Mod"] == 1 - gone
