"""Images in, a picture out: of any number, for any batch, to any place."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made.tiny import Tiny
from PIL import Image

from dynexport.cli import main
from dynexport.images import synthetic_images
from dynexport.visualize import visualize_images
from dynexport.visualize.images import find_images


def test_pictures_folders_and_arrays_in_one_picture(
    deit: Tiny, model: Path, folder: Path, tmp_path: Path
) -> None:
    pictures, steps = folder / "pictures", deit.metadata.preprocessing
    array = tmp_path / "images.npz"
    np.savez(array, images=steps.normalise(synthetic_images(6, 28)))
    out = tmp_path / "made" / "out.png"
    sources = [pictures / "4.png", pictures, array]
    result = visualize_images(model, sources, out, count=2, scores=True, top=4)
    names = [image.name for image in result.images]
    assert names == ["4.png", "0.png", "2.png", "images.npz, image 0", "images.npz, image 3"]
    assert (result.num_tokens, result.keep_counts) == (49, (34, 24, 14))
    assert all(len(image.classes) == 4 for image in result.images)
    with Image.open(out) as sheet:
        assert sheet.size == result.size
        assert sheet.mode == "RGB"
        assert sheet.height > 5 * 2 * 224
    assert json.dumps(dataclasses.asdict(result))


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "OUT.JPEG"])
def test_the_suffix_says_which_file_is_written(
    model: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    visualize_images(model, folder / "pictures" / "0.png", tmp_path / name)
    with Image.open(tmp_path / name) as sheet:
        assert sheet.format == ("PNG" if name.endswith("png") else "JPEG")


def test_a_folder_gives_eight_evenly_spread(deit: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", images=np.zeros((80, 28, 28, 3), np.uint8))
    (chosen,) = find_images([tmp_path / "many.npz"], deit.metadata)
    assert chosen.places == tuple(range(0, 80, 10))


def test_the_picture_is_named_after_the_model(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert visualize_images(model, folder / "pictures", count=1).output == "tiny.png"
    assert (tmp_path / "here" / "tiny.png").is_file()


def test_no_pytorch_is_needed(model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ["visualize", str(model), str(folder / "pictures"), "-o", "out.png", "--scores"]
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from dynexport.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit as left: print(left.code, 'dynexport.models' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert (tmp_path / "out.png").is_file()


def test_the_command_tells_what_it_drew(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    common = ["visualize", str(model), str(folder / "pictures"), "--count", "2", "-o", str(out)]
    with pytest.raises(SystemExit, match="0"):
        main([*common, "-q"])
    told = capsys.readouterr().out
    assert "49 -> 34 -> 24 -> 14 tokens" in told
    assert "0.png" in told
    assert "2.png" in told
    assert f"wrote {out}" in told
    with pytest.raises(SystemExit, match="0"):
        main([*common, "--json", "--top", "1"])
    result = json.loads(capsys.readouterr().out)
    assert [image["name"] for image in result["images"]] == ["0.png", "2.png"]
    ((name, probability),) = result["images"][0]["classes"]
    assert name.startswith("class ")
    assert 0.1 <= probability <= 1.0
