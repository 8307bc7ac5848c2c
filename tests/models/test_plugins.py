"""Families from outside the package, and EViT as one: converted, verified, timed like any other."""

from __future__ import annotations

import importlib.metadata
import json
import math
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dynexport.bench import bench_model
from dynexport.bench.timing import Plan
from dynexport.cli import app
from dynexport.conversion import Recipe, convert, open_checkpoint
from dynexport.errors import DynexportError, InputError, ModelError, ScheduleError
from dynexport.models import families, find_family, load_plugins, registry, variants
from dynexport.pytorch.checkpoint import load_checkpoint
from dynexport.pytorch.identify import build_model, identify
from dynexport.pytorch.rewrite import oracle, rewrite
from dynexport.runtimes import open_runner
from dynexport.schedule import KeepSchedule, Selection
from dynexport.verify import verify_model

pytestmark = pytest.mark.slow

EVIT = Path(__file__).parents[2] / "examples" / "evit" / "evit.py"

TINY = {
    "embed_dim": 64,
    "num_heads": 1,
    "depth": 4,
    "prune_at": (1, 2, 3),
    "patch_size": 4,
    "img_size": 28,
    "num_classes": 10,
}
"""49 tokens: at 0.7 35 are kept, then 26 of 36, then 19 of 27."""


def forget_plugins() -> None:
    """As a process begins."""
    for name in [name for name in sys.modules if name.startswith("dynexport_plugin_")]:
        del sys.modules[name]
    for name in registry._FAMILIES.keys() - {family.name for family in registry.BUILT_IN}:
        del registry._FAMILIES[name]


@pytest.fixture
def evit() -> nn.Module:
    return trained_evit()


def trained_evit(**changes: Any) -> Any:
    load_plugins([EVIT])
    family = find_family("evit")
    torch.manual_seed(0)
    model = family.model(family.config(**{**TINY, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def checkpoint(evit: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "deit.pth"
    torch.save({"model": evit.state_dict()}, path)
    return path


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def published_forward(model: Any, pictures: Tensor, ratio: float) -> Tensor:
    """The public code's evaluation, written plainly: top-k, its complement, a weighted sum of it
    where it was trained with --fuse_token."""
    x = torch.cat([model.cls_token.expand(len(pictures), -1, -1), model.patch_embed(pictures)], 1)
    x = x + model.pos_embed
    for index, block in enumerate(model.blocks):
        batch, count, dim = x.shape
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).reshape(batch, count, 3, heads, dim // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (dim // heads) ** -0.5).softmax(-1)
        x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(batch, count, dim))
        if index in model.config.prune_at:
            attention = weights[:, :, 0, 1:].mean(1)
            best = attention.topk(math.ceil(ratio * (count - 1)), dim=1).indices
            items = []
            for item in range(batch):
                rest = [n for n in range(count - 1) if n not in best[item].tolist()]
                patches = x[item, 1:]
                fused = (patches[rest] * attention[item, rest, None]).sum(0, keepdim=True)
                fused = fused[: int(model.config.fuse_token)]
                items.append(torch.cat([x[item, :1], patches[best[item]], fused]))
            x = torch.stack(items)
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x[:, 0]))


def test_evit_gives_the_published_answers(evit: Any) -> None:
    keep = KeepSchedule((0.7,) * 3)
    with torch.no_grad():
        expected = published_forward(evit, images(3), 0.7)
        assert evit.keep_counts(keep) == (35, 26, 19)
        for form in (evit, oracle(evit, keep), rewrite(evit, keep)):
            assert torch.allclose(form(images(3)).logits, expected, atol=1e-4)


NUMERICS = ("norm_eps=1e-6", "activation=gelu", "mean=0.5", "std=0.5")
"""Said, so that nothing else is assumed."""


def test_evit_without_fusing_gives_the_published_answers_by_what_was_recorded(
    tmp_path: Path,
) -> None:
    """As the public code records it: --fuse_token is off by default, --drop_loc is a text."""
    model = trained_evit(fuse_token=False)
    args = Namespace(fuse_token=False, base_keep_rate=0.7, drop_loc="(1, 2, 3)", input_size=28)
    path, onnx = tmp_path / "evit.pth", tmp_path / "evit.onnx"
    torch.save({"model": model.state_dict(), "args": args}, path)
    recipe = Recipe(path, batch="1:2:4", output=onnx, plugins=[EVIT], num_heads=1, args=NUMERICS)
    result = convert(recipe)
    assert result.assumed == ()
    assert result.metadata.keep_counts == (35, 25, 18)
    assert result.metadata.selection == Selection(nested=True, leading=1)
    assert result.verification.passed
    assert verify_model(onnx, checkpoint=path, plugins=[EVIT]).passed
    with torch.no_grad():
        expected = published_forward(model, images(3), 0.7)
        keep = KeepSchedule((0.7,) * 3)
        for form in (model, oracle(model, keep), rewrite(model, keep)):
            assert torch.allclose(form(images(3)).logits, expected, atol=1e-4)
    with open_runner("onnxruntime", onnx) as runner:
        found = runner.run(images(3).numpy())["logits"]
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_fusing_that_nothing_tells_is_assumed_and_said(checkpoint: Path) -> None:
    asked = {"plugins": (EVIT,), "prune_at": (1, 2, 3), "num_heads": 1, "img_size": 28}
    assumed = open_checkpoint(Recipe(checkpoint, **asked, args=NUMERICS))
    assert [str(one) for one in assumed.assumed] == [
        "dropped tokens fused into one (else `args` fuse_token=false)"
    ]
    assert assumed.config.fuse_token is True
    told = open_checkpoint(Recipe(checkpoint, **asked, args=("fuse_token=false", *NUMERICS)))
    assert told.assumed == ()
    assert told.config.fuse_token is False


def test_evit_keeps_positions_that_name_fused_tokens(evit: Any) -> None:
    """With little dropped each time, a fused token is ranked and sometimes kept."""
    keep = KeepSchedule((0.9,) * 3)
    with torch.no_grad():
        masked, gathered = (form(images(8)) for form in (oracle(evit, keep), rewrite(evit, keep)))
    for ours, theirs in zip(gathered.tokens.kept, masked.tokens.kept, strict=True):
        assert torch.equal(ours.sort(1).values, theirs.sort(1).values)
    assert int(gathered.tokens.kept[2].max()) in (49, 50)


@pytest.mark.parametrize("batch", ["1", "1:2:4"])
def test_evit_goes_the_whole_way(checkpoint: Path, batch: str) -> None:
    onnx = checkpoint.with_suffix(".onnx")
    result = convert(Recipe(checkpoint, ratio=0.9, batch=batch, output=onnx, plugins=[EVIT]))
    assert result.metadata.family == "evit"
    assert result.verification.passed
    assert [stage.overlap for stage in result.verification.stages] == [1.0, 1.0, 1.0]
    assert verify_model(onnx).passed
    assert verify_model(onnx, checkpoint=checkpoint, plugins=[EVIT]).passed
    plan = Plan(rounds=1, round_seconds=0.01, warmup_seconds=0.0)
    timed = bench_model(onnx, plan=plan, plugins=[EVIT])
    assert [t.label for t in timed.batches[0].timings] == [
        "onnxruntime sparse",
        "onnxruntime dense",
        "pytorch sparse",
        "pytorch dense",
    ]


def test_evits_twin_is_its_dense_export(checkpoint: Path, tmp_path: Path) -> None:
    from dynexport.formats.onnx_file import read_metadata, read_model, to_bytes
    from dynexport.graph.twin import dense_twin

    sparse, dense = tmp_path / "sparse.onnx", tmp_path / "dense.onnx"
    convert(Recipe(checkpoint, ratio=0.7, batch="1:2:4", output=sparse, plugins=[EVIT]))
    convert(Recipe(checkpoint, dense=True, batch="1:2:4", output=dense, plugins=[EVIT]))
    twin = to_bytes(dense_twin(read_model(sparse), read_metadata(sparse).dense_twin))
    with open_runner("onnxruntime", twin) as ours, open_runner("onnxruntime", dense) as theirs:
        found, expected = (r.run(images(3).numpy())["logits"] for r in (ours, theirs))
    assert np.abs(found - expected).max() < 1e-5


HALF_MARKED = "torch.cat([in_dense_twin(x[:, :1], tokens.x[:, :1]), x[:, 1:]], dim=1)"


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("x", "marks nothing with in_dense_twin"),
        (HALF_MARKED, "the dense twin still selects rows"),
    ],
)
def test_a_family_that_forgets_a_mark_is_not_exported(
    mark: str, problem: str, checkpoint: Path, tmp_path: Path
) -> None:
    text = EVIT.read_text().replace('name="evit"', 'name="forgetful"').replace("evit-", "f-")
    assert text.count("in_dense_twin(x, tokens.x)") == 1
    plugin, output = tmp_path / "forgetful.py", tmp_path / "f.onnx"
    plugin.write_text(text.replace("in_dense_twin(x, tokens.x)", mark))
    with pytest.raises(DynexportError, match=problem):
        convert(Recipe(checkpoint, ratio=0.7, output=output, plugins=[plugin]))
    assert not output.exists()


def test_a_plugin_comes_after_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the user's own family is the one taken where both match."""
    theirs = EVIT.read_text().replace('name="evit"', 'name="theirs"').replace("evit-", "t-")
    install(monkeypatch, tmp_path, theirs, "their_models:FAMILY")
    try:
        load_plugins([EVIT])
        assert list(families())[-2:] == ["theirs", "evit"]
    finally:
        registry._load_installed.cache_clear()


def test_the_command_line_takes_a_plugin(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of its file may hold a space."""
    monkeypatch.chdir(tmp_path)
    Path("my family.py").write_text(EVIT.read_text())
    published = {name: variants()[name] for name in ("deit-256", "evit-s")}
    monkeypatch.setattr("dynexport.pytorch.variants.variants", lambda: published)
    commands = [
        f"inspect {checkpoint}",
        f"convert {checkpoint} --ratio 0.7 -o out.onnx --batch 2",
        f"verify out.onnx --checkpoint {checkpoint}",
        "bench out.onnx --rounds 1 --round-seconds 0.01",
        "models",
    ]
    answers = []
    for command in commands:
        forget_plugins()
        done = CliRunner().invoke(app, [*command.split(), "--json", "--plugin", "my family.py"])
        assert done.exit_code == 0, (done.output, done.exception)
        answers.append(json.loads(done.stdout))
    assert answers[0]["family"] == answers[1]["metadata"]["family"] == "evit"
    assert len(answers[3]["batches"][0]["timings"]) == 4
    assert {row["model"] for row in answers[4]} == {"evit-s", "deit-256"}


def test_a_process_takes_a_plugin(checkpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "dynexport", "inspect", checkpoint, "--json", "--plugin"), EVIT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"] == "evit"


def test_a_plain_deit_without_the_plugin_is_told_what_it_lacks(checkpoint: Path) -> None:
    del registry._FAMILIES["evit"]
    with pytest.raises(InputError, match="no predictors"):
        identify(load_checkpoint(checkpoint))


def test_an_unknown_family_asks_for_its_plugin() -> None:
    with pytest.raises(ModelError, match=r"unknown family 'evit'.*with `plugins`$"):
        find_family("evit")


def test_evit_at_ratio_1_points_to_the_dense_twin(evit: Any) -> None:
    with pytest.raises(ScheduleError, match=r"keeps all of 49 tokens.*`dense`"):
        evit.keep_counts(KeepSchedule((1.0,) * 3))


def test_evit_at_another_image_size(checkpoint: Path) -> None:
    load_plugins([EVIT])
    loaded = load_checkpoint(checkpoint)
    family, config = identify(loaded, img_size=36)
    model = build_model(loaded, family, config)
    assert rewrite(model, KeepSchedule((0.5,) * 3))(torch.zeros(1, 3, 36, 36)).logits.shape == (
        1,
        10,
    )


def test_a_plugin_is_loaded_once() -> None:
    load_plugins([EVIT, EVIT])
    load_plugins([EVIT])
    assert list(families()) == ["deit", "lvvit", "swin", "convnext", "evit"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gone.py", None, "does not exist"),
        ("text.txt", "FAMILY = 1", r"text\.txt is no plugin: expected a Python file"),
        ("empty.py", "", r"empty\.py defines no FAMILY: expected a .*Family, found NoneType"),
        ("wrong.py", "FAMILY = 3", r"defines no FAMILY: .* found int"),
        ("broken.py", "x = 1\nx.y", r"broken\.py, line 2: AttributeError: .*; mend the file"),
        ("syntax.py", "def", r"syntax\.py.*SyntaxError: .*; mend the file"),
        ("leaves.py", "raise SystemExit(3)", r"leaves\.py, line 1: SystemExit: 3; mend the file"),
        (
            "twice.py",
            "from dynexport.models.deit import FAMILY",
            r"twice\.py defines 'deit', which is there already: choose another name",
        ),
    ],
)
def test_a_file_that_is_no_plugin_is_refused(
    name: str, content: str | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    for _ in range(2):  # a failed load leaves nothing behind
        with pytest.raises(InputError, match=problem):
            load_plugins([path])


class InstalledPackages:
    """Stands for what pip installed: entry points by group."""

    def __init__(self, **targets: str) -> None:
        self.entries = [
            importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINTS)
            for name, value in targets.items()
        ]

    def __call__(self, *, group: str) -> list[importlib.metadata.EntryPoint]:
        return [entry for entry in self.entries if entry.group == group]


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, content: str, target: str) -> None:
    (folder / "their_models.py").write_text(content)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", InstalledPackages(evit=target))
    registry._load_installed.cache_clear()


def test_an_installed_family_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, EVIT.read_text(), "their_models:FAMILY")
    try:
        assert find_family("evit").variants.keys() == {"evit-t", "evit-s", "evit-b"}
    finally:
        registry._load_installed.cache_clear()


def test_a_broken_installed_family_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "import nothing_like_this", "their_models:FAMILY")
    try:
        with pytest.raises(InputError, match=r"entry point evit \(their_models:FAMILY\) could not"):
            families()
    finally:
        registry._load_installed.cache_clear()
