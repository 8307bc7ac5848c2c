"""Writes the figures in README.md, docs/ and examples/ from the records of what was measured.

A page marks the place of a table, and what stands between the marks is replaced; so is a word or
two in a line:

    <!-- figures: NAME -->
    <!-- end of figures -->
    it is <!-- figure: NAME -->as accurate<!-- end --> as when it is dense

The records are those of benchmarks/results, and of examples/mnist what a test measures again
(figures.json) and the log of the training.

One rule for every figure, that of `dynexport bench`: a time is the median of all runs, a ratio the
median over the rounds with its standard error, and there is none where the rounds do not support it
(`dynexport.bench.ratios`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dynexport.bench.ratios import Ratio

ROOT = Path(__file__).parents[2]
RECORDS = ("peers-vits_amd-epyc-2-cores.json", "peers-maps_amd-epyc-2-cores.json")
MNIST = ROOT / "examples" / "mnist"
PAGES = (
    *(ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "precision.md"),
    *(ROOT / "docs" / "quick-start.md", ROOT / "docs" / "sweep.md", MNIST / "README.md"),
)
FORMULATIONS = "formulations_amd-epyc-2-cores.md"
KEEP_COUNTS = "keep_counts_amd-epyc-2-cores.json"
PRECISIONS = "precisions_amd-epyc-2-cores.json"
OURS = "dynexport"
SIDE = 2048
"""Of the product that is the ceiling, see benchmarks/ceilings.py."""
PEERS = {
    ("plain export", "onnxruntime"): "plain export, ONNX Runtime",
    ("plain export", "openvino"): "plain export, OpenVINO",
    ("plain export", "pytorch"): "PyTorch eager",
    ("plain export", "pytorch compiled"): "torch.compile",
    ("plain, ORT optimizer", "onnxruntime"): "ORT optimizer",
    ("plain, onnxslim", "onnxruntime"): "onnxslim",
}
MARKED = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
IN_LINE = re.compile(r"(<!-- figure: ([\w-]+) -->).*?(<!-- end -->)")


def write_figures(text: str) -> str:
    """A page with all that is marked as the records have it. KeyError for an unknown name."""
    text = MARKED.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]]()}{mark[3]}", text)
    return IN_LINE.sub(lambda mark: f"{mark[1]}{WORDS[mark[2]]()}{mark[3]}", text)


def summary_table() -> str:
    """Four rows for the README: batch 1, ONNX Runtime."""
    head = "model, ratio 0.7|ms an image|times as fast as dense|ideal, by MACs|in int8"
    rows = []
    for result in _results():
        if result["batch"] == 1:
            ours, dense = _pair(result, "onnxruntime", "fp32")
            int8, _ = _pair(result, "onnxruntime", "int8")
            cells = [result["model"], _places(ours["times"]["p50"], 1)]
            cells += [_ratio(dense, ours).told(2), _places(ours["ideal"], 2)]
            rows.append([*cells, _ratio(dense, int8).told(2)])
    return _table(head, rows)


def peers_table() -> str:
    """How many times faster ours is than each peer in float32."""
    rows = []
    for result in _results():
        for sparse in (True, False):
            found = {
                (peer["form"], peer["runtime"]): _versus(result, peer).told(2)
                for peer in result["versus"]
                if peer["sparse"] == sparse
            }
            cells = [found.get(peer, "wrong answers") for peer in PEERS]
            kept = "sparse" if sparse else "dense"
            rows.append([result["model"], str(result["batch"]), kept, *cells])
    return _table("|".join(("model|batch|kept", *PEERS.values())), rows)


def ideal_table() -> str:
    """What was realised of the ideal and of the ceiling in float32."""
    head = (
        "model|batch|runtime|ms|dense ms|speed-up|ideal|of ideal"
        "|of ceiling, sparse|dense|plain export, sparse"
    )
    rows = []
    for result in _results():
        for runtime in ("onnxruntime", "openvino"):
            ours, dense = _pair(result, runtime, "fp32")
            plain = _row(result, "plain export", runtime, "fp32", sparse=True)
            cells = [result["model"], str(result["batch"]), runtime]
            gained = _ratio(dense, ours)
            cells += [_places(row["times"]["p50"], 1) for row in (ours, dense)]
            cells += [gained.told(), _places(ours["ideal"], 3)]
            cells += [gained.scaled(1.0 / ours["ideal"]).told()]
            rows.append([*cells, *(_of_ceiling(result, row) for row in (ours, dense, plain))])
    return _table(head, rows)


def int8_table() -> str:
    """int8 on ONNX Runtime, beside float32 and its own dense twin."""
    head = (
        "model|batch|precision|ms|GOP/s|over the fp32 dense twin|over its own twin|of the ceiling"
    )
    rows = []
    for result in _results():
        for precision in ("int8", "int8-dynamic"):
            if not any(row["precision"] == precision for row in result["rows"]):
                continue
            ours, dense = _pair(result, "onnxruntime", precision)
            _, single = _pair(result, "onnxruntime", "fp32")
            cells = [result["model"], str(result["batch"]), precision]
            cells += [_places(ours["times"]["p50"], 1), _places(_rate(result, ours), 0)]
            cells += [_ratio(single, ours).told(2), _ratio(dense, ours).told(2)]
            rows.append([*cells, _of_ceiling(result, ours)])
    return _table(head, rows)


def keep_counts_table() -> str:
    """Counts at the ends of the range that was tried, and multiples; against the ratio as it is."""
    plain, *others = _keep_counts()
    ends = [row for row in others if not row["label"].startswith("multiples")]
    chosen = [plain, ends[0], ends[-1], *(row for row in others if row not in ends)]
    head = "choice|tokens kept|rows computed|GMACs|ms|time|multiply-accumulates"
    rows = []
    for row in chosen:
        time = "1" if row is plain else _ratio(row, plain, "measured").told()
        cells = [re.sub(r"^multiples of (\d+)$", r"`--align \1`", row["label"])]
        cells += [", ".join(map(str, row[name])) for name in ("keep_counts", "rows")]
        cells += [_places(row["macs_sparse"] / 1e9, 3), _places(row["measured"]["p50"], 2)]
        rows.append([*cells, time, _places(row["macs"], 3)])
    return _table(head, rows)


def keep_counts_spread() -> str:
    """By how much time changes at most where the first stage keeps another count."""
    plain, *others = _keep_counts()
    times = [
        _ratio(row, plain, "measured").median
        for row in others
        if not row["label"].startswith("multiples")
    ]
    return f"{_places(100.0 * max(abs(time - 1.0) for time in times), 1)} %"


def align_8_cost() -> str:
    """What rows in multiples of eight cost in time."""
    plain, *others = _keep_counts()
    row = next(row for row in others if row["label"] == "multiples of 8")
    time = _ratio(row, plain, "measured").scaled(100.0)
    return f"{_places(time.median - 100.0, 1)} ± {_places(time.error or 0.0, 1)} %"


def formulations_table() -> str:
    """As the benchmark wrote it."""
    text = (ROOT / "benchmarks" / "results" / FORMULATIONS).read_text()
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith("|"))


def precisions_table() -> str:
    """The demo's model in every precision: accuracy, agreement with PyTorch, size."""
    rows = [
        [
            name,
            _percent(found["accuracy"]),
            _percent(found["agreement"]),
            _places(found["megabytes"], 2),
        ]
        for name, found in _mnist()["precisions"].items()
    ]
    return _table("precision|accuracy|same digit as PyTorch|MB", rows)


def training_table() -> str:
    """The accuracies that the training's log ends with."""
    found = re.findall(r"^test accuracy of the (.*): ([\d.]+)%$", _log(), re.M)
    return _table("on the 1,000 test digits|accuracy", [[of, f"{share} %"] for of, share in found])


def ink_table() -> str:
    """What is dropped, by the training's log."""
    line = r"^(stage \d) keeps ([\d.]+)% of the patches with ink, ([\d.]+)% of the others$"
    rows = [[stage, f"{ink} %", f"{rest} %"] for stage, ink, rest in re.findall(line, _log(), re.M)]
    return _table("kept after|patches with ink|patches without", rows)


def int8_sizes() -> str:
    """Of int8 files, as shares of the float32 ones."""
    record = json.loads((ROOT / "benchmarks" / "results" / PRECISIONS).read_text())
    sizes = [result["sizes"] for result in record["results"]]
    shares = [size["int8 sparse"] / size["fp32 sparse"] for size in sizes]
    return f"{_places(min(shares), 2)} to {_places(max(shares), 2)}"


def int8_models() -> str:
    """Those whose files were weighed."""
    record = json.loads((ROOT / "benchmarks" / "results" / PRECISIONS).read_text())
    *first, last = dict.fromkeys(result["model"] for result in record["results"])
    return f"{', '.join(first)} and {last}"


def mnist_mistakes() -> str:
    """How many test digits the model gets wrong, and of how many."""
    found = _mnist()
    wrong = round(found["images"] * (1.0 - found["pytorch"]))
    return f"{wrong} in {found['images']:,}"


def mnist_accuracies() -> str:
    """At the base ratio it was trained with, and with all patches, by the training's log."""
    student = dict(re.findall(r"^test accuracy of the student, (.*): ([\d.]+)%$", _log(), re.M))
    return f"{student['base ratio 0.7']} %, and {student['all patches']} %"


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary_table,
    "peers": peers_table,
    "ideal": ideal_table,
    "int8": int8_table,
    "keep-counts": keep_counts_table,
    "formulations": formulations_table,
    "precisions": precisions_table,
    "training": training_table,
    "ink": ink_table,
}

WORDS: dict[str, Callable[[], str]] = {
    "keep-counts-spread": keep_counts_spread,
    "align-8-cost": align_8_cost,
    "int8-sizes": int8_sizes,
    "int8-models": int8_models,
    "mnist-mistakes": mnist_mistakes,
    "mnist-accuracies": mnist_accuracies,
}


def _keep_counts() -> list[dict[str, Any]]:
    """The ratio as it is, then every other choice."""
    record = ROOT / "benchmarks" / "results" / KEEP_COUNTS
    return list(json.loads(record.read_text())["results"])


def _mnist() -> dict[str, Any]:
    return dict(json.loads((MNIST / "figures.json").read_text()))


def _log() -> str:
    return (MNIST / "train.log").read_text()


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _results() -> Iterator[dict[str, Any]]:
    """Each model at each batch size, in the order of the records."""
    for name in RECORDS:
        yield from json.loads((ROOT / "benchmarks" / "results" / name).read_text())["results"]


def _row(
    result: dict[str, Any], form: str, runtime: str, precision: str, *, sparse: bool
) -> dict[str, Any]:
    wanted = (form, runtime, precision, sparse)
    return next(
        row
        for row in result["rows"]
        if (row["form"], row["runtime"], row["precision"], row["sparse"]) == wanted
    )


def _pair(result: dict[str, Any], runtime: str, precision: str) -> list[dict[str, Any]]:
    """Ours and its dense twin."""
    return [_row(result, OURS, runtime, precision, sparse=sparse) for sparse in (True, False)]


def _versus(result: dict[str, Any], peer: dict[str, Any]) -> Ratio:
    """How many times faster ours is than a peer in float32."""
    theirs = _row(result, peer["form"], peer["runtime"], "fp32", sparse=peer["sparse"])
    ours = _row(result, OURS, peer["ours_on"], "fp32", sparse=peer["sparse"])
    return _ratio(theirs, ours)


def _ratio(slow: dict[str, Any], fast: dict[str, Any], times: str = "times") -> Ratio:
    """How many times faster, of two rows; ``times``: where they have their rounds."""
    return Ratio.of(*(SimpleNamespace(**row[times]) for row in (slow, fast)))


def _rate(result: dict[str, Any], row: dict[str, Any]) -> float:
    """Billions of operations a second at the median run, two a multiply-accumulate."""
    return 2e3 * float(row["gmacs"]) * result["batch"] / float(row["times"]["p50"])


def _of_ceiling(result: dict[str, Any], row: dict[str, Any]) -> str:
    """The share of what the fastest product of its precision reaches."""
    kind = "int8" if row["precision"].startswith("int8") else "fp32"
    limit = result["ceilings"][kind]
    work = row["gmacs"] * 1e9 * result["batch"] / SIDE**3
    return _ratio(limit, row).scaled(work).told()


def _places(value: float, places: int) -> str:
    return f"{value:.{places}f}"


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(write_figures(page.read_text()))
        print(f"wrote the figures of {page}", file=sys.stderr)
