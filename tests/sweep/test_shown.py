"""What a sweep prints of its speed-ups: with their error, or that the rounds do not tell."""

from __future__ import annotations

import pytest

from dynexport.bench import Gain
from dynexport.bench.ratios import Ratio
from dynexport.cli.sweep_results import row_printer, show_sweep
from dynexport.sweep.rows import Measured, Row, Sweep


def row(precision: str, speedup: Ratio) -> Row:
    gain = Gain.of("onnxruntime", speedup, 1.5)
    measured = Measured(
        *((34,), 49, 10, 15, 999, 5.0, 7.0, gain.speedup, 0.9, None),
        speedup_error=gain.speedup_error,
        unsettled=gain.unsettled,
    )
    return Row(0.7, precision, 8, "", measured)


ROWS = (row("fp32", Ratio(1.4, 0.03, 9)), row("int8", Ratio(5.29, None, 1)))


def test_a_table_has_no_quotient_that_its_rounds_do_not_support(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_sweep(
        Sweep(
            *("ckpt.pth", "out", "onnxruntime", None, "64 synthetic images", False, None),
            *(ROWS, (0, 1), 0, (), (), 0.0),
        )
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    (fp32,) = (line for line in lines if "fp32" in line)
    (int8,) = (line for line in lines if "int8" in line)
    assert " 1.40 ± 0.03 x 1.50 x " in fp32
    assert " not settled 1.50 x " in int8
    why = "speed-ups not settled: 1 round, give at least 5 with --rounds; what is starred may rest"
    assert [line for line in lines if line.startswith(why)]
    assert not any("5.29" in line for line in lines)


def test_so_has_a_row_as_it_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    show = row_printer(quiet=False)
    for finished in ROWS:
        show(finished)
    lines = capsys.readouterr().err.splitlines()
    assert "5.00 ms, speed-up 1.40 ± 0.03 x, agreement 90.00%" in lines[0]
    assert "5.00 ms, speed-up not settled, agreement 90.00%" in lines[1]


def test_a_row_of_release_0_1_0_told_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    old = Measured((34,), 49, 10, 15, 999, 5.0, 7.0, 1.4, 0.9, None)
    row_printer(quiet=False)(Row(0.7, "fp32", 8, "", old))
    assert "speed-up 1.40 x, agreement" in capsys.readouterr().err
