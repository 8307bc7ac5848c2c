"""Sound containers with unsound content: checkpoints, arrays, folders of pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
from argparse import Namespace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fuzz.damage import ODD_TEXTS, ODD_VALUES, change_json, change_value, damage
from fuzz.samples import SIDE, Samples, copy_sample

MARKER = "code-was-run"
"""What a malicious pickle makes in the working folder."""


class Calls:
    """Unpickled without care, this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def malicious(random: Random) -> Any:
    """Something that makes `MARKER` when it is unpickled without care."""
    return random.choice(
        (
            Calls(os.system, f"touch {MARKER}"),
            Calls(os.mkdir, MARKER),
            Calls(eval, f"open({MARKER!r}, 'w')"),
            Calls(exec, f"open({MARKER!r}, 'w')"),
        )
    )


def odd_tensor(tensor: Tensor, random: Random) -> Any:
    """A tensor in whose place nothing like it belongs."""
    choices = (
        lambda: tensor.to(random.choice((torch.float64, torch.bfloat16, torch.int8, torch.bool))),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to_sparse(),
        lambda: tensor.new_full(tensor.shape, random.choice((float("nan"), float("inf"), 1e38))),
        lambda: tensor.reshape(-1),
        lambda: tensor[None],
        lambda: tensor[:0],
        lambda: tensor.sum(),
        lambda: torch.cat([tensor, tensor]),
        lambda: torch.zeros(1).expand(random.choice((10**7, 10**13))),
        lambda: tensor.T if tensor.ndim == 2 else tensor,
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
        lambda: tensor.numpy(),
        lambda: random.choice(ODD_VALUES),
        lambda: malicious(random),
    )
    return random.choice(choices)()


def odd_state(state: dict[str, Tensor], random: Random) -> dict[Any, Any]:
    """A state dict with a few entries that are not a model's."""
    state = dict(state)
    for _ in range(random.choice((1, 1, 3))):
        name = random.choice(list(state))
        action = random.randrange(5)
        if action == 0:
            del state[name]
        elif action == 1:
            new = random.choice((*ODD_TEXTS, 5, None, ("a",), name + ".x", "blocks.9.norm1.weight"))
            state[new] = state.pop(name)
        elif isinstance(state[name], Tensor):
            state[name] = odd_tensor(state[name], random)
        if not state:
            break
    return state


def odd_checkpoint(content: dict[str, Any], random: Random) -> Any:
    """What a checkpoint holds, changed somewhere."""
    state, args = content["model"], content["args"]
    if random.random() < 0.3:
        args = random.choice((change_value(args, random), Namespace(**args), None, [args]))
        if isinstance(args, dict) and random.random() < 0.2:
            args["odd"] = malicious(random)
    else:
        state = odd_state(state, random)
    nested: Any = {"model": state, "args": args}
    for _ in range(random.choice((0, 0, 0, 1, 2, 300))):
        nested = random.choice(({"state_dict": nested}, [nested], {"a": nested, "b": nested}))
    if isinstance(nested, dict) and random.random() < 0.03:
        nested["self"] = nested
    return nested


def write_checkpoint(path: Path, content: Any, random: Random) -> None:
    """As PyTorch saves it, or as a plain pickle."""
    way = random.randrange(8)
    if way == 0:
        path.write_bytes(_plain_pickle(content, random))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way > 1)


def _plain_pickle(content: Any, random: Random) -> bytes:
    try:
        return pickle.dumps(content, protocol=random.choice((2, 4)))
    except (pickle.PicklingError, NotImplementedError):  # no tensor of that kind pickles
        return pickle.dumps({"model": malicious(random)})


def odd_array(array: NDArray[Any], random: Random) -> NDArray[Any]:
    """An array of another type, shape or content."""
    types = ("<U4", "S3", "?", "<c8", "<f2", ">f4", "<f8", "<i8", "u1", "<M8[s]", "O")
    choices = (
        lambda: np.zeros(array.shape, random.choice(types)),
        lambda: array[:0],
        lambda: array[..., :0],
        lambda: array[None],
        lambda: array.reshape(-1),
        lambda: np.array("text"),
        lambda: np.array({"a": 1}, dtype=object),
        lambda: np.zeros(array.shape[:1], [("a", "f4"), ("b", "i4")]),
        lambda: np.full(array.shape, np.nan),
        lambda: np.zeros_like(array) - 1 if array.dtype.kind in "if" else array[::-1],
        lambda: np.full_like(array, 2**31) if array.dtype == np.int64 else array + 1,
        lambda: np.asfortranarray(array),
        lambda: array[::-1],
        lambda: np.concatenate([array, array]) if array.ndim else array,
    )
    made: NDArray[Any] = random.choice(choices)()
    return made


def odd_arrays(arrays: dict[str, NDArray[Any]], random: Random) -> dict[str, Any]:
    """The arrays of an .npz, of which one or two are not as they were."""
    arrays = dict(arrays)
    for _ in range(random.choice((1, 1, 2))):
        name = random.choice(list(arrays))
        if name == "facts" and random.random() < 0.8:
            text = change_json(arrays[name].tobytes().decode(), random)
            arrays[name] = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
        elif random.random() < 0.1 and len(arrays) > 1:
            del arrays[name]
        elif random.random() < 0.1:
            new = random.choice(("kept_7", "output:", "own_kept_0", "x", "scores_0", "é"))
            arrays[new] = arrays.pop(name)
        else:
            arrays[name] = odd_array(arrays[name], random)
    return arrays


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def odd_pictures(samples: Samples, folder: Path, random: Random) -> Path:
    """A folder of pictures of which some are none, or of a rare kind."""
    pictures = copy_sample(samples, "pictures", folder)
    path = random.choice(sorted(pictures.iterdir()))
    action = random.randrange(8)
    if action < 3:
        path.write_bytes(damage(path.read_bytes(), random))
    elif action == 3:
        _rare_picture(random).save(path.with_suffix(".png"))
    elif action == 4:
        path.unlink()
        os.mkfifo(path)
    elif action == 5:
        path.unlink()
        path.symlink_to(path)
    elif action == 6:
        path.unlink()
        path.mkdir()
    else:
        classes = pictures / random.choice(("0", "a", "n01440764", "é", "[bold]"))
        classes.mkdir()
        path.rename(classes / path.name)
    return pictures


def _rare_picture(random: Random) -> Image.Image:
    mode = random.choice(("1", "L", "P", "LA", "RGBA", "I;16"))
    size = random.choice(((1, 1), (1, 3000), (SIDE, SIDE), (8000, 2)))
    return Image.new(mode, size)


def odd_hub(samples: Samples, folder: Path, random: Random) -> Path:
    """A folder as Hugging Face's libraries save it, changed somewhere; or a path into it."""
    hub = copy_sample(samples, "hub", folder)
    path = random.choice(sorted(hub.iterdir()))
    if path.suffix == ".json" and random.random() < 0.8:
        path.write_text(change_json(path.read_text(), random), encoding="utf-8", errors="replace")
    else:
        path.write_bytes(damage(path.read_bytes(), random))
    return random.choice((hub, path, hub / "model.safetensors.index.json"))


def odd_safetensors(content: bytes, random: Random) -> bytes:
    """A file whose header says what its data are not."""
    size = int.from_bytes(content[:8], "little")
    header = change_json(content[8 : 8 + size].decode(), random).encode("utf-8", "replace")
    stream = io.BytesIO()
    stream.write(len(header).to_bytes(8, "little") + header + content[8 + size :])
    return stream.getvalue()


def odd_sidecar(text: str, random: Random) -> str:
    """A sidecar with something changed in it, or in the model's metadata that it repeats."""
    if random.random() < 0.5:
        return change_json(text, random)
    facts = json.loads(text)
    key = random.choice(sorted(facts["properties"]))
    facts["properties"][key] = change_json(facts["properties"][key], random)
    return json.dumps(facts)
