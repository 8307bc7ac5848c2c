"""Preflight of whole files: ours, a naive one, others', and the command that tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from made.onnx_models import FLOAT, INT8, INT32, INT64, RTX, check, model_of, needs_rtx, node, unary
from onnx import helper
from torch import Tensor, nn

from dynexport import check as preflight
from dynexport.check import check_graph, check_model, fixes_for
from dynexport.cli import main
from dynexport.conversion import Conversion, Recipe, convert
from dynexport.errors import BuildError, DeviceError, MissingExtraError, ModelFileError
from dynexport.formats.onnx_file import read_model, to_bytes
from dynexport.graph.selection import add_kept_outputs
from dynexport.graph.twin import dense_twin
from dynexport.models.swin import DynamicSwin, SwinConfig
from dynexport.runtimes.tensorrt import Edition
from dynexport.runtimes.tensorrt.parser import Problem


class Naive(nn.Module):
    """Token pruning as one would write it: log-softmax, argsort, torch.gather."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.score = nn.LayerNorm(64), nn.Linear(64, 2)
        self.qkv, self.proj = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm(x))
        scores = F.log_softmax(self.score(x), dim=-1)[..., 0]
        keep = torch.argsort(scores, dim=1, descending=True)[:, :20]
        x = torch.gather(x, 1, keep.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        return x + self.attend(self.norm(x))

    def attend(self, x: Tensor) -> Tensor:
        batch, total, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, total, 3, 2, 32).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * 32**-0.5
        mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, total, 64))


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("naive") / "naive.onnx"
    program = torch.onnx.export(
        Naive().eval(), (torch.zeros(2, 49, 64),), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(str(path))
    return path


def test_a_naive_export_is_told_what_it_loses(naive: Path) -> None:
    result = check_model(naive)
    rules = [finding.rule for finding in result.findings]
    assert rules == ["full-sort", "expanded-index", "late-scale", "late-scale"]
    assert result.passed
    names = {n.name for n in onnx.load(str(naive)).graph.node}
    assert {finding.node for finding in result.findings} <= names


def test_nothing_is_found_in_a_swin(tmp_path: Path) -> None:
    """Biases and masks in attention, a whole order read for two paths, kept rows."""
    stages = (1, 1, 4, 1), (1, 2, 2, 4), (1, 2, 3), (4, 4, 4, 2)
    torch.manual_seed(0)
    model = DynamicSwin(SwinConfig(16, *stages, img_size=64, num_classes=5))
    checkpoint = tmp_path / "swin.pth"
    torch.save({"model": model.state_dict()}, checkpoint)
    result = convert(
        Recipe(
            checkpoint,
            ratio=0.7,
            batch="1:2:5",
            emit_kept=True,
            prune_at=(1, 2, 3),
            img_size=64,
            output=tmp_path / "swin.onnx",
        )
    )
    assert check_model(result.onnx).findings == ()


def test_nothing_is_found_in_a_deit_its_twin_or_its_kept_rows(tiny_conversion: Conversion) -> None:
    result = check_model(tiny_conversion.onnx)
    assert result.findings == ()
    assert result.passed
    assert result.nodes == read_model(tiny_conversion.onnx).graph.num_nodes()
    graph = read_model(tiny_conversion.onnx)
    add_kept_outputs(graph, tiny_conversion.metadata)
    before = to_bytes(graph)
    assert check_graph(graph) == ()
    assert to_bytes(graph) == before
    assert check_graph(dense_twin(graph, tiny_conversion.metadata.dense_twin)) == ()


@needs_rtx
def test_the_parsers_complaint_is_told(tmp_path: Path) -> None:
    """By name, where a node has one and where it has none."""
    for named, found in ((node("Det", "x", "y"), "n/y"), (unnamed("Det", "x", "y"), "Det -> y")):
        model = model_of([named], [("x", [2, 2], FLOAT)], [("y", [], FLOAT)])
        onnx.save(model, str(tmp_path / "m.onnx"))
        result = check_model(tmp_path / "m.onnx", edition="tensorrt-rtx")
        assert (result.parsed, result.passed) == (False, False)
        (finding,) = result.findings
        assert (finding.rule, finding.severity, finding.node) == ("parser", "refused", found)
        assert finding.what == "tensorrt-rtx refuses it: Det: the parser does not support it"
    nonzero = unary("NonZero", [2, 4])
    onnx.save(nonzero, str(tmp_path / "m.onnx"))
    (finding,) = check_model(tmp_path / "m.onnx", edition="tensorrt-rtx").findings
    assert (finding.rule, finding.severity) == ("data-dependent", "refused")
    assert finding.fix.startswith("keep a constant number of rows")


def unnamed(op_type: str, inputs: str, outputs: str) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split())


def test_a_parsers_complaint_raises_what_a_rule_found() -> None:
    model = ir.serde.deserialize_model(unary("NonZero", [2, 4]))
    found = check_graph(model)
    for problem, rules in (
        (Problem("n/y", "NonZero", "no plugin"), [("data-dependent", "refused")]),
        (Problem("other", "Foo", "unknown"), [("parser", "refused"), ("data-dependent", "slow")]),
        (Problem("", "", "cut short"), [("parser", "refused"), ("data-dependent", "slow")]),
    ):
        joined = preflight._with_problems(model, found, [problem], RTX)
        assert [(finding.rule, finding.severity) for finding in joined] == rules


def test_others_files_are_read_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """Functions are looked into; an operator nobody knows, undeclared at that, is passed over."""
    foo = helper.make_node("Foo", ["x"], ["y"], domain="somebody")
    strange = model_of([foo, node("TopK", "y k", "v i")], [("x", [2], FLOAT)], [], k=[5000])
    assert [finding.node for finding in check(strange)] == ["n/v"]
    body = [node("Constant", "", "k", value_ints=[5000]), node("TopK", "a k", "v b")]
    opsets = [helper.make_opsetid("", 20)]
    pick = helper.make_function("local", "Pick", ["a"], ["b"], body, opsets)
    calls = [helper.make_node("Pick", ["x"], ["y"], domain="local")]
    model = model_of(calls, [("x", [2, 8000], FLOAT)], [("y", [2, 5000], INT64)])
    model.functions.append(pick)
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert [(finding.rule, finding.severity) for finding in check(model)] == [("top-k", "refused")]
    assert capfd.readouterr() == ("", "")


def test_mends_are_found_by_the_nodes_a_complaint_names() -> None:
    """TensorRT makes a name of the output where a node has none; one name may hold another."""
    nodes = [node("TopK", "x k", "a i"), node("TopK", "x k", "ab j")]
    nodes.append(unnamed("MatMulInteger", "q w", "y"))
    model = model_of(
        nodes,
        [("x", [2, 8000], FLOAT), ("q", [2, 4], INT8)],
        [("i", None, INT64), ("j", None, INT64), ("y", None, INT32)],
        k=[5000],
        w=np.ones((4, 4), np.int8),
    )
    graph = ir.serde.deserialize_model(model)
    k, integers = "ask for fewer rows", "quantise in the QDQ format"
    for complaint, fixes in (
        ("ITopKLayer n/ab: n/ab: K exceeds the maximum", [k]),
        ("node_of_y: no", [integers]),
        ("n/abc fell over", [k, integers]),
        ("something else", [k, integers]),
    ):
        found = fixes_for(graph, complaint)
        assert [fix.startswith(start) for fix, start in zip(found, fixes, strict=True)]
    assert fixes_for(ir.serde.deserialize_model(unary("Relu", [2])), "n/y") == ()


@needs_rtx
def test_a_parser_that_needs_a_gpu_is_passed_over_without(
    naive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise DeviceError("there is no GPU")

    installed = RTX.load()
    monkeypatch.setattr(Edition, "load", lambda self: installed)
    monkeypatch.setattr(preflight.cuda, "current_device", none)
    assert check_model(naive).tensorrt == f"tensorrt-rtx {RTX.version()}"
    with pytest.raises(DeviceError, match="there is no GPU"):
        check_model(naive, edition="tensorrt")


def absent(message: str, kind: type[Exception]) -> Callable[[Edition], Any]:
    def load(self: Edition) -> Any:
        raise kind(message) if kind is not MissingExtraError else MissingExtraError(message, "rtx")

    return load


@pytest.mark.parametrize("kind", [MissingExtraError, BuildError, DeviceError])
def test_without_a_parser_the_rules_are_told_alone(
    kind: type[Exception], naive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Edition, "load", absent("tensorrt-rtx", kind))
    result = check_model(naive)
    assert (result.tensorrt, result.parsed, result.passed) == (None, None, True)
    assert "tensorrt-rtx" in result.unparsed
    assert len(result.findings) == 4
    with pytest.raises(kind, match="tensorrt-rtx"):
        check_model(naive, edition="tensorrt-rtx")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert isinstance(left.value.code, int)
        return left.value.code, *capsys.readouterr()

    return call


@needs_rtx
def test_check_passes_a_file_of_ours_in_one_line(run: Run, tiny_conversion: Conversion) -> None:
    code, out, err = run("check", tiny_conversion.onnx, "-q")
    nodes = read_model(tiny_conversion.onnx).graph.num_nodes()
    version = RTX.version()
    assert (code, err) == (0, "")
    assert out == (
        f"{tiny_conversion.onnx}: tensorrt-rtx {version} takes all {nodes} nodes, nothing to fix\n"
    )


def test_check_writes_a_line_a_finding(run: Run, naive: Path) -> None:
    code, out, _ = run("check", naive)
    assert code == 0
    first, *_, scale, verdict = out.splitlines()
    assert first.startswith("slow node_sort")
    assert "; fix: ask for K = 20" in first
    assert scale.startswith("risky node_mul and 1 more: ")
    assert len(out.splitlines()) == 4
    assert verdict.startswith(f"{naive}: ")
    assert verdict.endswith("; 4 to fix")


@needs_rtx
def test_check_exits_with_1_where_a_build_would_be_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    top_k = [node("TopK", "x k", "v i")]
    ends = [("x", [2, 8000], FLOAT)], [("i", [2, 5000], INT64)]
    onnx.save(model_of(top_k, *ends, k=[5000]), str(path))
    code, out, _ = run("check", path)
    assert code == 1
    assert "refused n/v: its K is 5000, and TensorRT's limit is 3840; fix: " in out
    assert "parses all 1 nodes, and builds no engine of them; 1 to fix, 1 of them first" in out
    onnx.save(unary("Det", [2, 2]), str(path))
    code, out, _ = run("check", path, "--edition", "tensorrt-rtx")
    assert code == 1
    assert "does not take it; 1 to fix, 1 of them first" in out


def test_check_prints_json_whole(run: Run, naive: Path) -> None:
    code, out, _ = run("check", naive, "--json")
    result = json.loads(out)
    assert code == 0
    assert list(result) == [
        "model",
        "nodes",
        "tensorrt",
        "parsed",
        "unparsed",
        "findings",
        "passed",
    ]
    assert len(result["findings"]) == 4
    assert list(result["findings"][0]) == ["rule", "severity", "node", "what", "mend"]


def test_check_refuses_what_is_no_onnx_and_no_tensorrt(
    run: Run, naive: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.onnx").write_bytes(naive.read_bytes()[:100])
    for arguments, text in (
        ((tmp_path / "torn.onnx",), "is not a complete ONNX file"),
        ((tmp_path / "none.onnx",), "does not exist"),
        ((naive, "--edition", "onnx"), "unknown TensorRT 'onnx'"),
    ):
        code, out, err = run("check", *arguments)
        assert (code, out) == (2, "")
        assert text in err
    with pytest.raises(ModelFileError, match="is not a complete ONNX file"):
        check_model(tmp_path / "torn.onnx")
