"""What TensorRT will make of an ONNX file, told before an engine is built.

The rules need the graph alone; where a TensorRT is installed its parser reads the file as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dynexport.errors import BuildError, DeviceError, MissingExtraError
from dynexport.formats.onnx_file import as_source, read_model
from dynexport.graph.functions import in_standard
from dynexport.graph.patterns import STANDARD, given_name, label
from dynexport.graph.rule import SEVERITIES, Finding
from dynexport.graph.rules.order import RULES
from dynexport.graph.view import View
from dynexport.runtimes import cuda
from dynexport.runtimes.tensorrt import EDITIONS, Edition, find_edition
from dynexport.runtimes.tensorrt.parser import Problem, parse

TAKEN_BY_SOME = frozenset({"attention-operator", "data-dependent", "random", "scatter-reduction"})
"""Rules that explain why one TensorRT refuses a node, where another takes it."""


@dataclass(frozen=True)
class Preflight:
    """What was found; ``passed`` where nothing is refused.

    nodes     in the graph
    tensorrt  edition and version whose parser read the file; None where none did
    parsed    whether it took the file; None where none read it. It may stop at the first node it
              refuses, so that others follow once that one is fixed
    unparsed  why none read it; empty where one did
    findings  one a node, the worst first
    """

    model: str
    nodes: int
    tensorrt: str | None
    parsed: bool | None
    unparsed: str
    findings: tuple[Finding, ...]
    passed: bool

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it; the key of a fix has been "mend" since the first release."""
        plain = dataclasses.asdict(self)
        for finding in plain["findings"]:
            finding["mend"] = finding.pop("fix")
        return plain


def check_model(path: str | Path, *, edition: str = "auto") -> Preflight:
    """Check an ONNX file, whoever wrote it.

    ``edition``: "tensorrt", "tensorrt-rtx", or "auto": the first that can parse here, and where
    none can, that is told. ModelFileError for a file that is no ONNX; MissingExtraError,
    DeviceError or BuildError where a TensorRT asked for by name cannot parse.
    """
    model = read_model(path)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.name = label(node)  # so that the parser tells of it by the same name
    findings = check_graph(model)
    tensorrt, unparsed, problems = None, "", None
    try:
        chosen = _parser(tuple(EDITIONS) if edition == "auto" else (edition,))
        tensorrt = f"{chosen.name} {chosen.version()}"
        with as_source(in_standard(model)) as source:
            problems = parse(chosen, source)
        findings = _with_problems(model, findings, problems, chosen)
    except (MissingExtraError, BuildError, DeviceError) as error:
        if edition != "auto":
            raise
        unparsed = str(error)
    return Preflight(
        model=str(path),
        nodes=model.graph.num_nodes(),
        tensorrt=tensorrt,
        parsed=None if problems is None else not problems,
        unparsed=unparsed,
        findings=findings,
        passed=all(finding.severity != "refused" for finding in findings),
    )


def check_graph(model: ir.Model) -> tuple[Finding, ...]:
    """What the rules find in a graph, the worst first; the graph is left as it is."""
    view = View.of(model)
    return _sorted(found for rule in RULES if rule.find is not None for found in rule.find(view))


def fixes_for(model: ir.Model, complaint: str) -> tuple[str, ...]:
    """What to change about a graph that TensorRT refuses, by rules.

    About the nodes that its complaint names, or where it names none of them, about all that it
    cannot take.
    """
    refused = [finding for finding in check_graph(model) if finding.severity == "refused"]
    other = {
        label(node): given_name(node) for node in ir.traversal.RecursiveGraphIterator(model.graph)
    }
    named = [
        finding
        for finding in refused
        if _names(complaint, finding.node)
        or _names(complaint, other.get(finding.node, finding.node))
    ]
    return tuple(dict.fromkeys(finding.fix for finding in named or refused))


def _names(text: str, node: str) -> bool:
    """Whether a text tells of this node, and not of one whose name only holds this one's."""
    return re.search(rf"(?<![\w./-]){re.escape(node)}(?![\w/-]|\.\w)", text) is not None


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _parser(names: Sequence[str]) -> Edition:
    """The first edition whose parser runs here; raises what keeps the last one from it."""
    try:
        return _require_parser(find_edition(names[0]))
    except (BuildError, DeviceError, MissingExtraError):
        if len(names) == 1:
            raise
        return _parser(names[1:])


def _require_parser(edition: Edition) -> Edition:
    edition.load()
    if not edition.targets:
        cuda.current_device()  # an edition that builds for the GPU here cannot even parse without
    return edition


def _with_problems(
    model: ir.Model, findings: tuple[Finding, ...], problems: Iterable[Problem], edition: Edition
) -> tuple[Finding, ...]:
    """Findings, and what the parser refuses: told of with a rule's fix where a rule has one."""
    joined = list(findings)
    domains = {label(n): n.domain for n in ir.traversal.RecursiveGraphIterator(model.graph)}
    for problem in problems:
        same = [
            place
            for place, finding in enumerate(joined)
            if finding.node == problem.node
            and (finding.severity == "refused" or finding.rule in TAKEN_BY_SOME)
        ]
        for place in same:
            if joined[place].severity != "refused":
                what = f"{joined[place].what}; {edition.name} refuses it"
                joined[place] = dataclasses.replace(joined[place], severity="refused", what=what)
        if not same:
            joined.append(_unexplained(problem, domains.get(problem.node, ""), edition))
    return _sorted(dict.fromkeys(joined))


def _unexplained(problem: Problem, domain: str, edition: Edition) -> Finding:
    """What the parser refuses and no rule knows."""
    if domain not in STANDARD:
        fix = f"export with ONNX's own operators; {domain} is another runtime's, or a plugin's"
    elif problem.node:
        fix = "write it in operators of github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
    else:
        fix = "remove what is named, or change its type"
    operator = f"{problem.operator}: " if problem.operator else ""
    what = f"{edition.name} refuses it: {operator}{problem.reason}"
    return Finding("parser", "refused", problem.node or "(the file)", what, fix)
