"""Weights are found wherever a training tool puts them, and give what the plain file gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made.saved import State, filled
from made.tiny import build
from safetensors.torch import save_file
from torch import nn

from dynexport.errors import CheckpointError
from dynexport.pytorch.checkpoint import Checkpoint, load_checkpoint
from dynexport.pytorch.containers import LEAVES
from dynexport.pytorch.identify import identify


def under(front: str, state: State) -> State:
    return {front + name: tensor for name, tensor in state.items()}


def inside(state: State, wrapper: str) -> State:
    """As a tool names it that wraps each block."""
    return {n.replace("blocks.1.", f"blocks.1.{wrapper}."): t for n, t in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def counted(state: State) -> State:
    """With what a FLOP counter leaves."""
    modules = ("", "blocks.0.", "head.")
    return state | {m + c: torch.zeros(1) for m in modules for c in ("total_ops", "total_params")}


def averaged(state: State) -> State:
    return {"n_averaged": torch.tensor(3)} | under("module.", state)


def apart(state: State, head: str) -> State:
    """As a toolbox keeps a backbone and its head."""
    ours = ("head.weight", "head.bias")
    return under("backbone.", {n: t for n, t in state.items() if n not in ours}) | {
        name.replace("head.", head): state[name] for name in ours
    }


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "lightning": lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 0.1}},
    "lightning, net": lambda s: {"state_dict": under("net.", s), "callbacks": {"a": [1]}},
    "lightning, compiled": lambda s: {"state_dict": under("model._orig_mod.", s)},
    "lightning, metrics beside": lambda s: {
        "state_dict": under("net.", s)
        | {"val_acc.total": torch.tensor(3), "criterion.weight": torch.ones(10)}
    },
    "pairs of name and tensor": lambda s: {"weights": list(s.items())},
    "pairs alone": lambda s: [(name, tensor) for name, tensor in s.items()],
    "deepspeed": lambda s: {"module": s, "ds_version": "0.15"},
    "fsdp": lambda s: inside(under("_fsdp_wrapped_module.", s), "_fsdp_wrapped_module"),
    "checkpointed blocks": lambda s: {"model": inside(s, "_checkpoint_wrapped_module")},
    "compiled blocks": lambda s: {"model": inside(s, "_orig_mod")},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "pycls": lambda s: {"model_state": s, "epoch": 1},
    "net": lambda s: {"net": s, "acc": 93.1},
    "weights": lambda s: {"weights": s},
    "ema alone": lambda s: {"ema": s, "updates": 100},
    "basicsr": lambda s: {"params_ema": other(s), "params": s},
    "average before the model": lambda s: {"model_ema": other(s), "model": s},
    "timm": lambda s: {"state_dict": s, "state_dict_ema": other(s), "arch": "x"},
    "swa": averaged,
    "swa beside": lambda s: {"swa_model": averaged(other(s)), "model": s},
    "student and teacher": lambda s: {"student": s, "teacher": other(s)},
    "teacher and student in one": lambda s: under("teacher.", other(s)) | under("student.", s),
    "flop counters": lambda s: {"model": counted(s)},
    "mm": lambda s: {"meta": {"CLASSES": ("a",)}, "state_dict": apart(s, "head.")},
    "mmpretrain": lambda s: {"state_dict": apart(s, "head.fc."), "message_hub": {"x": [1]}},
    "detectron2": lambda s: {"model": under("backbone.bottom_up.", s), "__author__": "x"},
    "deep": lambda s: {"a": {"b": [{"c": under("module.model.", s)}]}, "iteration": 3},
    "in a list": lambda s: [{"epoch": 1}, s],
}


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_plain_files_weights(
    save: Callable[..., Path], state: State, layout: str
) -> None:
    assert same(load_checkpoint(save(LAYOUTS[layout](state))).state, state)


def test_and_its_logits(save: Callable[..., Path], state: State, tiny_model: nn.Module) -> None:
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    path = save(LAYOUTS["lightning, compiled"](state))
    model = filled(load_checkpoint(path), prune_at=(1, 2, 3))
    with torch.no_grad():
        assert torch.equal(model(images).logits, tiny_model(images).logits)


@pytest.mark.parametrize(
    ("layout", "places"),
    [
        ("timm", ("state_dict", "state_dict_ema")),
        ("average before the model", ("model", "model_ema")),
        ("swa beside", ("model", "swa_model")),
        ("student and teacher", ("student", "teacher")),
        ("teacher and student in one", ("student", "teacher")),
        ("deep", ("a.b.0.c",)),
        ("lightning", ("state_dict",)),
        ("swa", ()),
    ],
)
def test_every_set_is_named_and_taken_by_its_name(
    save: Callable[..., Path], state: State, layout: str, places: tuple[str, ...]
) -> None:
    """The plain one first; each is found under the name it is told by."""
    path = save(LAYOUTS[layout](state))
    assert load_checkpoint(path).available == places
    for number, place in enumerate(places):
        taken = load_checkpoint(path, place)
        assert taken.weights == place
        assert same(taken.state, other(state) if number else state)


def test_a_set_that_is_not_there_is_refused_with_those_there_are(
    save: Callable[..., Path], state: State
) -> None:
    path = save(LAYOUTS["student and teacher"](state))
    with pytest.raises(CheckpointError, match="no weights under 'ema': found student, teacher"):
        load_checkpoint(path, "ema")


def test_one_set_in_two_places_is_found_in_both(save: Callable[..., Path], state: State) -> None:
    loaded = load_checkpoint(save({"state_dict": state, "state_dict_ema": state}), "state_dict_ema")
    assert loaded.available == ("state_dict", "state_dict_ema")
    assert same(loaded.state, state)


def test_nesting_without_end_is_read(save: Callable[..., Path], state: State) -> None:
    """Lists of one list twice, thirty deep, which hold a thousand million; and one that holds
    itself."""
    nested: list[Any] = []
    for _ in range(30):
        nested = [nested, nested]
    nested.append(nested)
    assert same(load_checkpoint(save({"model": state, "extra": nested})).state, state)


@pytest.fixture(params=["safetensors", "bin"])
def sharded(request: pytest.FixtureRequest, tmp_path: Path, state: State) -> Path:
    """A folder as Hugging Face's libraries write it, weights in two files."""
    folder = tmp_path / "a model"
    folder.mkdir()
    stem = "model" if request.param == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{part}-of-00002.{request.param}" for part in (1, 2)]
    for part, name in enumerate(names):
        some = {key: state[key] for key in list(state)[part::2]}
        if request.param == "safetensors":
            save_file(some, folder / name)
        else:
            torch.save(some, folder / name)
    files = {key: names[place % 2] for place, key in enumerate(state)}
    index = folder / f"{stem}.{request.param}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": 1, "image_size": 28}))
    return folder


def test_a_folder_and_any_of_its_files_give_the_whole(sharded: Path, state: State) -> None:
    digests = set()
    for path in (sharded, *sorted(sharded.glob("*model*"))):
        loaded = load_checkpoint(path)
        assert same(loaded.state, state)
        assert loaded.args == {"num_heads": 1, "input_size": 28}
        digests.add(loaded.sha256)
    assert len(digests) == 1
    assert same(filled(loaded, prune_at=(1, 2, 3)).state_dict(), state)


def test_the_digest_of_shards_is_of_what_they_hold(sharded: Path) -> None:
    before = load_checkpoint(sharded).sha256
    file = next(iter(sharded.glob("*-00002-of-*")))
    if file.suffix == ".safetensors":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        torch.save({n: t + 1 for n, t in torch.load(file).items()}, file)
    assert load_checkpoint(sharded).sha256 != before


def test_a_shard_that_is_missing_is_named(sharded: Path) -> None:
    lost = next(iter(sharded.glob("*-00002-of-*")))
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"lists '{lost.name}', which is not beside it"):
        load_checkpoint(sharded)


def test_an_index_cannot_lead_out_of_its_folder(sharded: Path, tmp_path: Path) -> None:
    lost = next(iter(sharded.glob("*-00002-of-*")))
    shutil.move(lost, tmp_path / lost.name)
    index = next(iter(sharded.glob("*.index.json")))
    index.write_text(index.read_text().replace(lost.name, f"../{lost.name}"))
    with pytest.raises(CheckpointError, match="which is not beside it"):
        load_checkpoint(sharded)


@pytest.mark.parametrize("given", [".", "global_step3"])
def test_a_folder_of_deepspeed_gives_its_latest_weights(
    given: str, tmp_path: Path, state: State
) -> None:
    for step, held in (("global_step2", other(state)), ("global_step3", state)):
        (tmp_path / step).mkdir()
        torch.save({"module": held}, tmp_path / step / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step3\n")
    assert same(load_checkpoint(tmp_path / given).state, state)


def test_pieces_of_tensors_are_to_be_put_together(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match=r"pieces of tensors .*dcp_to_torch .* whole\.pth"):
        load_checkpoint(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is a folder"):
        load_checkpoint(tmp_path)


def test_a_single_safetensors_of_a_folder_takes_its_settings(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 1}))
    loaded: Checkpoint = load_checkpoint(tmp_path)
    assert loaded.path == tmp_path / "model.safetensors"
    assert loaded.args == {"num_heads": 1}


def test_a_backbone_is_told_where_its_head_stands(tmp_path: Path) -> None:
    """Toolboxes for segmentation keep both in one file, and the backbone alone is converted."""
    state = {
        f"backbone.{name}": tensor
        for name, tensor in build("swin", 0).state_dict().items()
        if not name.startswith(("head.", "norm."))
    }
    for head in ("decode_head", "auxiliary_head"):
        state |= {f"{head}.conv_seg.{leaf}": torch.zeros(150, 64, 1, 1) for leaf in LEAVES}
    torch.save({"state_dict": state}, tmp_path / "segmentation.pth")
    loaded = load_checkpoint(tmp_path / "segmentation.pth")
    assert loaded.heads == ("decode_head", "auxiliary_head")
    told = (
        r"under decode_head\. and auxiliary_head\., and is not converted: give `task` features for"
    )
    with pytest.raises(CheckpointError, match=rf"say it, as in .*; the head stands .* {told}"):
        identify(loaded)
    with pytest.raises(CheckpointError, match=rf"it is a backbone, .*; the head stands .* {told}"):
        identify(loaded, prune_at=(1, 2, 3))
    assert identify(loaded, prune_at=(1, 2, 3), task="features")[0].name == "swin"


def test_a_classifier_apart_from_its_backbone_is_no_head_beside(tmp_path: Path) -> None:
    state = build("swin", 0).state_dict()
    front = {n: n if n.startswith("head.") else f"backbone.{n}" for n in state}
    torch.save({front[name]: tensor for name, tensor in state.items()}, tmp_path / "mm.pth")
    assert load_checkpoint(tmp_path / "mm.pth").heads == ()
