"""The page: facts put into the template, every number with its value, every text escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynexport.errors import MissingExtraError
from dynexport.report import charts, sweeps
from dynexport.report.facts import Report

if TYPE_CHECKING:
    from jinja2 import Template

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SPACE = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"
NONE = "\N{EN DASH}"
"""What stands where there is no number."""


def load_template() -> Template:
    """The template of a `Report`, one HTML file that needs no other.

    MissingExtraError without Jinja.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("jinja2", "report") from None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: _with_value(write) for name, write in NUMBERS.items()}
    environment.filters["plain"] = write_plain
    environment.filters["prose"] = write_prose
    environment.globals |= {
        "latency_bars": charts.latency_bars,
        "token_bars": charts.token_bars,
        "harm_bars": charts.harm_bars,
        "layer_stacks": charts.layer_stacks,
        "sweep_clouds": sweeps.sweep_clouds,
        "sweep_precisions": sweeps.sweep_precisions,
        "told_ms": write_ms,
        "told_number": write_number,
        "number": environment.filters["number"],
        "count": environment.filters["count"],
        "told_verdict": told_verdict,
        "told_gain": told_gain,
    }
    return environment.get_template("page.html")


def write_times(value: float) -> str:
    """A factor, as in 1.49 x."""
    return f"{value:.2f}{TIMES}"


def write_percent(value: float) -> str:
    """A share, to a tenth of a per cent."""
    return f"{100.0 * value:.1f}{SPACE}%"


def write_ms(value: float) -> str:
    """Milliseconds, to two places below a hundred."""
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def write_number(value: float) -> str:
    """Three digits; a power of ten where that is shorter."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(SUPERSCRIPTS)
    return f"{mantissa}{SPACE}{TIMES}{SPACE}10{power}"


def write_count(value: float) -> str:
    """A whole number, with commas."""
    return f"{value:,d}"


def write_rate(value: float) -> str:
    """Images a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def write_cosine(value: float) -> str:
    """A cosine, to six places."""
    return f"{value:.6f}"


def write_size(value: float) -> str:
    """Bytes."""
    if value >= 2**30:
        return f"{value / 2**30:.1f}{SPACE}GiB"
    return f"{value / 1e6:.2f}{SPACE}MB" if value < 1e8 else f"{value / 1e6:.0f}{SPACE}MB"


def write_macs(value: float) -> str:
    """Multiply-accumulates, in millions or billions."""
    if value >= 1e9:
        return f"{value / 1e9:.2f}{SPACE}G"
    return f"{value / 1e6:.3g}{SPACE}M" if value >= 1e6 else f"{value:,.0f}"


NUMBERS = {
    "times": write_times,
    "percent": write_percent,
    "ms": write_ms,
    "number": write_number,
    "count": write_count,
    "rate": write_rate,
    "cosine": write_cosine,
    "size": write_size,
    "macs": write_macs,
}
"""Filters of the template: each writes a number for people, beside its full value for machines."""


def _with_value(write: Any) -> Any:
    def filtered(value: float | None) -> Any:
        from markupsafe import Markup

        if value is None or not math.isfinite(value):
            return NONE
        return Markup('<data value="{}">{}</data>').format(repr(value), write(value))

    return filtered


def write_plain(value: Any) -> str:
    """A fact of the metadata as a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {write_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(write_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_prose(text: str) -> Any:
    """A sentence with what stands in backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def told_verdict(report: Report) -> str:
    """Whether the models agree with PyTorch, and what of their engines, in sentences."""
    return " ".join([_told_models(report), *_told_engines(report)])


def _told_engines(report: Report) -> Iterator[str]:
    """Of engines that failed, and of those that were not run, with the reasons in short."""
    judged = [engine.verification for engine in report.engines if engine.verification is not None]
    failed = sum(not verification.passed for verification in judged)
    if failed:
        yield f"{_told_count(failed)} failed verification."
    idle = [engine.idle for engine in report.engines if engine.idle is not None]
    if idle:
        reasons = dict.fromkeys(reason.partition(": ")[0] for reason in idle)
        yield f"{_told_count(len(idle))} not run: {'; '.join(reasons)}."


def _told_count(engines: int) -> str:
    return "1 engine" if engines == 1 else f"{engines} engines"


def _told_models(report: Report) -> str:
    judged = [m for m in report.models if m.verification is not None]
    total = len(report.models)
    if not judged:
        return "Nothing could be verified."
    if report.verified == total:
        return "Verified against PyTorch." if total == 1 else f"All {total} models are verified."
    if total == 1:
        return "It failed verification."
    return f"{report.verified} of {total} models are verified."


def told_gain(report: Report) -> str:
    """Whether sparsity pays, in a sentence."""
    gains = report.timed
    if not gains:
        sparse = any(model.metadata.keep_counts for model in report.models)
        return "Nothing was timed." if sparse else "Nothing is dropped."
    pays = [gain.pays for gain in gains]
    if all(pays):
        return "Sparse pays."
    if any(pays):
        return "Sparse pays in some."
    return "Whether sparse pays is not settled." if None in pays else "Sparse does not pay here."
