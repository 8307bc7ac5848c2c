"""Who runs against whom: every form of a model in every runtime, sparse and dense."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from openers import PlainModel
from prepare import (
    OPTIMISED,
    PLAIN_FORM,
    SLIMMED,
    SPARSE,
    OnnxFile,
    Subject,
    compare_answers,
    write_ours,
    write_plain,
)
from rounds import onnx_candidate

from dynexport.bench.candidates import RandomModel
from dynexport.bench.stopwatch import Candidate
from dynexport.formats.onnx_file import read_metadata

OURS = "dynexport"

FORMS = (PLAIN_FORM, OPTIMISED, SLIMMED, OURS)

RUNTIMES = ("onnxruntime", "openvino", "pytorch", "pytorch compiled")

OPENVINO = {"fp32": "openvino", "bf16": "openvino-bf16"}
"""What OpenVINO computes a float32 file in, and the backend that does."""


@dataclass(frozen=True)
class Entry:
    """One form of a model in one runtime.

    macs, nodes  of its graph, for one image; nodes is 0 where there is no graph
    candidate    None where it could not be made: then ``reason`` says why
    """

    form: str
    runtime: str
    precision: str
    sparse: bool
    macs: int
    nodes: int = 0
    candidate: Candidate | None = None
    reason: str = ""

    @property
    def label(self) -> str:
        return name_entry(self.form, self.runtime, self.precision, self.sparse)


def name_entry(form: str, runtime: str, precision: str, sparse: bool) -> str:
    """What tells an entry from the others at one batch size."""
    return f"{form}, {runtime} {precision}, {'sparse' if sparse else 'dense'}"


def find_entries(
    subject: Subject,
    batches: Sequence[int],
    forms: Sequence[str],
    precisions: Sequence[str],
    threads: int,
    folder: Path,
    pool: Executor,
) -> dict[int, list[Entry]]:
    """Make all files of a model, check what they answer, and list the entries by batch size."""
    made = {
        precision: pool.submit(write_ours, subject, precision, batches, folder)
        for precision in precisions
        if OURS in forms
    }
    exported = {
        (batch, sparse): pool.submit(write_plain, subject, batch, sparse, forms, folder)
        for batch in batches
        for sparse in (True, False)
        if set(forms) - {OURS}
    }
    plain = {
        key: list_plain(subject, files.result(), key[1], threads) for key, files in exported.items()
    }
    checked = {key: check(listed, subject, key[0], pool) for key, listed in plain.items()}
    ours = {precision: files.result() for precision, files in made.items()}
    entries: dict[int, list[Entry]] = {batch: [] for batch in batches}
    for (batch, sparse), listed in plain.items():
        entries[batch] += mark_wrong(listed, checked[batch, sparse].result())
    for batch in batches:
        for sparse in (True, False):
            files = {precision: sizes[batch][not sparse] for precision, sizes in ours.items()}
            entries[batch] += list_ours(files, sparse, threads)
    return {batch: sorted(listed, key=_place) for batch, listed in entries.items()}


def list_plain(
    subject: Subject, files: Mapping[str, OnnxFile], sparse: bool, threads: int
) -> list[Entry]:
    """The plain form in PyTorch, and its files in the runtimes."""
    export = files[PLAIN_FORM]
    entries = [
        Entry(
            PLAIN_FORM,
            runtime,
            "fp32",
            sparse,
            export.macs,
            candidate=Candidate(
                name_entry(PLAIN_FORM, runtime, "fp32", sparse),
                PlainModel(
                    subject.name,
                    tuple(subject.counts) if sparse else (),
                    compiled=runtime == "pytorch compiled",
                ),
                threads,
            ),
        )
        for runtime in ("pytorch", "pytorch compiled")
    ]
    for form, file in files.items():
        entries.append(_onnx_entry(form, "onnxruntime", "fp32", sparse, file, threads))
    for precision, backend in OPENVINO.items():
        entries.append(_onnx_entry(PLAIN_FORM, backend, precision, sparse, export, threads))
    return entries


def list_ours(files: Mapping[str, OnnxFile], sparse: bool, threads: int) -> list[Entry]:
    """Ours in every precision: one file each, but for bf16 on OpenVINO, which is the float32
    file's, as it is the plain one's."""
    entries = []
    for precision, file in files.items():
        entries.append(_onnx_entry(OURS, "onnxruntime", precision, sparse, file, threads))
        if precision != "bf16":
            entries.append(_onnx_entry(OURS, "openvino", precision, sparse, file, threads))
    if "fp32" in files:
        single = files["fp32"]
        entries.append(_onnx_entry(OURS, OPENVINO["bf16"], "bf16", sparse, single, threads))
        entries.append(_in_pytorch(single, sparse, threads))
    return entries


def check(
    entries: Sequence[Entry], subject: Subject, batch: int, pool: Executor
) -> Future[dict[str, str]]:
    """Asks which do not answer as the first does, PyTorch's.

    bf16 may round, and what PyTorch compiles is not tried beforehand, as it takes a minute.
    """
    reference = entries[0].candidate
    assert reference is not None
    tried = [e for e in entries[1:] if e.precision == "fp32" and e.runtime != "pytorch compiled"]
    asked = [entry.candidate for entry in tried if entry.candidate]
    shape = (batch, 3, *subject.img_size)
    return pool.submit(compare_answers, reference, asked, shape)


def mark_wrong(entries: Sequence[Entry], reasons: Mapping[str, str]) -> list[Entry]:
    """The same, with a reason in place of the candidate where there is one, by label."""
    return [
        dataclasses.replace(entry, candidate=None, reason=reasons[entry.label])
        if entry.label in reasons
        else entry
        for entry in entries
    ]


def _place(entry: Entry) -> tuple[int, str, str, bool]:
    """Where it stands in tables."""
    return FORMS.index(entry.form), entry.runtime, entry.precision, not entry.sparse


def _onnx_entry(
    form: str, backend: str, precision: str, sparse: bool, file: OnnxFile, threads: int
) -> Entry:
    runtime = "openvino" if backend.startswith("openvino") else backend
    label = name_entry(form, runtime, precision, sparse)
    candidate = onnx_candidate(label, Path(file.path), backend, threads) if file.path else None
    return Entry(form, runtime, precision, sparse, file.macs, file.nodes, candidate, file.reason)


def _in_pytorch(file: OnnxFile, sparse: bool, threads: int) -> Entry:
    """The inference form that a sparse file, or the twin beside it, was made from."""
    label = name_entry(OURS, "pytorch", "fp32", sparse)
    candidate = None
    if file.path:
        metadata = read_metadata(Path(file.path).with_name(SPARSE))
        candidate = Candidate(label, RandomModel(metadata, dense=not sparse), threads)
    return Entry(OURS, "pytorch", "fp32", sparse, file.macs, 0, candidate, file.reason)
