"""One self-contained HTML file on a folder of converted models.

It tells what they are, whether sparsity pays, whether they are verified, and how to make them
again.

The line runs: `gather` (by running what there is) -> `facts` (plain values) -> `page` (the
template, with `charts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynexport.bench.timing import Plan
from dynexport.errors import InputError
from dynexport.files import require_kept, require_writable, written_whole
from dynexport.progress import OnStep, silent
from dynexport.report.environment import read_environment
from dynexport.report.facts import Report
from dynexport.report.gather import (
    Wanted,
    find_searches,
    gather_models,
    gather_sweep,
    require_folder,
)
from dynexport.report.page import load_template
from dynexport.report.steps import report_step
from dynexport.runtimes import find_runtime
from dynexport.sweep.rows import RESULT

__all__ = ["Report", "write_report"]


def write_report(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    images: str | Path | None = None,
    backend: str | None = None,
    bench: bool = True,
    plan: Plan | None = None,
    on_step: OnStep = silent,
) -> Report:
    """Report on a folder of models: what `convert` wrote, engines built from it, and a sweep.

    output   the .html to write, by default report.html in the folder; its facts go into a .json of
             the same name
    images   folder of images, or .npz, to show what is kept of; by default those of the bundles
    backend  runtime to verify and time the ONNX files in; by default onnxruntime
    bench    time each model beside its dense twin, as ``plan`` says

    What cannot be gathered is told in its place. Raises DynexportError's subclasses, InputError if
    the folder holds none of these; then nothing was written.
    """
    folder = Path(folder)
    target = folder / "report.html" if output is None else Path(output)
    require_folder(folder)
    beside = target.with_suffix(".json")
    _require_page(target, beside, [images, folder / RESULT, *folder.glob("*.engine.json")])
    template = load_template()
    if backend is not None:
        find_runtime(backend)
    wanted = Wanted(
        backend=backend,
        plan=(plan or Plan()) if bench else None,
        images=None if images is None else Path(images),
    )
    models, skipped = gather_models(folder, wanted, on_step)
    sweep, damaged = gather_sweep(folder)
    skipped |= damaged
    if not models and sweep is None:
        raise _nothing_found(folder, skipped)
    on_step("look at this machine")
    report = Report(
        html=str(target),
        json=str(beside),
        folder=str(folder),
        models=models,
        strangers=skipped,
        environment=read_environment(),
        sweep=sweep,
        steps=(report_step(folder, output, images, backend, wanted.plan),),
    )
    page = template.render(report=report)
    with written_whole(target, beside) as (html_draft, json_draft):
        html_draft.write_text(page, encoding="utf-8")
        json_draft.write_text(json.dumps(report.to_plain(), indent=2) + "\n", encoding="utf-8")
    return report


def _require_page(target: Path, beside: Path, inputs: Sequence[str | Path | None]) -> None:
    """InputError unless the page and its facts can be written, and are none of the inputs."""
    if target.suffix != ".html":
        raise InputError(f"{target} does not end in .html: name the page to write")
    for file in (target, beside):
        require_writable(file)
    require_kept(inputs, target, beside)


def _nothing_found(folder: Path, skipped: Mapping[str, str]) -> InputError:
    """What to say of a folder that holds nothing to report on."""
    others = f"; {next(iter(skipped.values()))}" if skipped else ""
    searches = find_searches(folder)
    if searches:
        others = (
            f", only a search: {', '.join(searches)}; run that with -o "
            f"{folder / 'model.onnx'}, and report again"
        )
    return InputError(f"{folder} holds no ONNX file that `dynexport convert` wrote{others}")
