"""The tree of errors: exit codes, and the sentences that name a wrong choice."""

from __future__ import annotations

import pytest

from dynexport import errors
from dynexport.errors import (
    BuildError,
    CalibrationError,
    CheckpointError,
    DeviceError,
    DynexportError,
    EngineError,
    ImageError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelFileError,
    ScheduleError,
    VerificationError,
    unknown_choice,
)

INPUT_ERRORS = (
    CheckpointError,
    ScheduleError,
    ModelError,
    ModelFileError,
    EngineError,
    ImageError,
    CalibrationError,
)
OTHERS = (MissingExtraError, DeviceError, BuildError, VerificationError)


@pytest.mark.parametrize("kind", INPUT_ERRORS)
def test_bad_input_of_every_kind_exits_with_2(kind: type[DynexportError]) -> None:
    assert issubclass(kind, InputError)
    assert kind("x").exit_code == 2


@pytest.mark.parametrize("kind", [DeviceError, BuildError])
def test_what_the_machine_cannot_do_exits_with_2(kind: type[DynexportError]) -> None:
    assert kind("x").exit_code == 2
    assert not issubclass(kind, InputError)


def test_a_failed_verification_exits_with_1_and_is_no_bad_input() -> None:
    assert VerificationError("x").exit_code == 1
    assert not issubclass(VerificationError, InputError)


def test_a_missing_extra_exits_with_2_and_names_the_command_that_installs_it() -> None:
    error = MissingExtraError("onnxruntime", "cpu")
    assert error.exit_code == 2
    assert not isinstance(error, InputError)
    assert str(error) == (
        "onnxruntime is not installed, and this step needs it: run  pip install 'onnxruntime>=1.20'"
    )


def test_every_error_can_be_caught_as_one_and_shadows_no_builtin() -> None:
    defined = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = [kind for kind in defined if issubclass(kind, Exception)]
    assert len(raised) == 13
    for kind in raised:
        assert issubclass(kind, DynexportError)
        assert not issubclass(kind, (ValueError, OSError))


def test_the_tree_in_the_module_text_names_every_error() -> None:
    assert errors.__doc__ is not None
    for kind in (DynexportError, *INPUT_ERRORS, InputError, *OTHERS):
        assert kind.__name__ in errors.__doc__


def test_unknown_choice_suggests_the_nearest_name_and_lists_all() -> None:
    assert unknown_choice("model", "diet-s", ["deit-s", "deit-b"]) == (
        "unknown model 'diet-s': did you mean 'deit-s'? choose from deit-s, deit-b"
    )


def test_unknown_choice_suggests_nothing_where_nothing_is_near() -> None:
    assert unknown_choice("backend", "zzz", iter(["onnxruntime"])) == (
        "unknown backend 'zzz': choose from onnxruntime"
    )


def test_unknown_choice_looks_past_case_and_at_parts() -> None:
    assert "did you mean 'fp16'? " in unknown_choice("precision", "FP16", ["fp32", "fp16"])
    assert "did you mean 'tensorrt-rtx'? " in unknown_choice("TensorRT", "rtx", ["tensorrt-rtx"])
    assert "did you mean" not in unknown_choice("precision", "", ["fp32"])
