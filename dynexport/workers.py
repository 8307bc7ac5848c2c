"""Python processes beside this one that import what it imports and answer what it asks.

What is asked is a function and its arguments, pickled, over a pipe. A process may hold something
open meanwhile. Whatever happens there, a hang or the end of the interpreter, is an error here.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from threading import Event, Timer
from typing import IO, Any, TypeVar

from dynexport.errors import DynexportError

CLOSING_SECONDS = 10.0
"""A process gets so long to close what it holds: a runtime may keep what it compiled."""

T = TypeVar("T")


class WorkerError(DynexportError):
    """A process raised something unforeseen, ended, or took too long."""


class Worker:
    """A process that holds something open, and calls functions with it when asked.

    held  a context manager that pickles; it is entered there. A DynexportError that is raised
          there is raised here in the same words, anything else is a `WorkerError`
    """

    def __init__(self, held: AbstractContextManager[Any] | None = None) -> None:
        self._held = nullcontext() if held is None else held
        # a pipe that nobody reads would fill and block
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # -m would put the working folder first: import what this process imports
        start = f"import sys; sys.path[:] = {sys.path!r}; import dynexport.workers as workers"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{start}; workers.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> Worker:
        try:
            self._send(self._held, None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=CLOSING_SECONDS)  # it ends where its input ends
        except (subprocess.TimeoutExpired, OSError, ValueError):
            self._process.kill()
            self._process.wait()
        self._ending = self._describe_ending()
        self._errors.close()

    def ask(self, function: Callable[..., T], *arguments: Any, seconds: float | None = None) -> T:
        """What ``function`` returns there, given what is held open and the arguments.

        seconds: how long that may take; then the process is ended. None: as long as it likes.
        """
        answer: T = self._send((function, arguments), seconds)
        return answer

    def require_ended_well(self) -> None:
        """WorkerError if the process, closed by now, did not end as it should."""
        if self._process.returncode:
            raise WorkerError(self._ending)

    def _send(self, asked: object, seconds: float | None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = Event()

        def end() -> None:
            late.set()
            self._process.kill()

        clock = Timer(seconds or 0.0, end)
        if seconds is not None:
            clock.start()
        try:
            _write(self._process.stdin, pickle.dumps(asked))
            kind, answer = pickle.loads(_read(self._process.stdout))
        except (OSError, EOFError, pickle.UnpicklingError):
            self._process.wait()
            ended = f"it takes more than {seconds:g} seconds" if late.is_set() else None
            raise WorkerError(ended or self._describe_ending()) from None
        finally:
            clock.cancel()
        if kind == "raised":
            raise DynexportError(answer)
        if kind == "failed":
            raise WorkerError(answer)
        return answer

    def _describe_ending(self) -> str:
        """How the process ended, and its last words."""
        code = self._process.returncode
        ending = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._errors.seek(0)
        words = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"it ends Python {ending}" + (f" ({words[-1]})" if words else "")


def ask_once(function: Callable[..., T], *arguments: Any, seconds: float | None = None) -> T:
    """What ``function`` returns in a process of its own, which must end well too.

    Otherwise as `Worker.ask`.
    """
    with Worker() as worker:
        answer: T = worker.ask(_call, function, *arguments, seconds=seconds)
    worker.require_ended_well()
    return answer


def main() -> None:
    """In a `Worker`'s process: enter what is held, then answer till the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    with ExitStack() as owned:
        held: list[Any] = []

        def answer(asked: Any) -> Any:
            if not held:
                held.append(owned.enter_context(asked))
                return None
            function, arguments = asked
            return function(*held, *arguments)

        while True:
            try:
                content = _read(sys.stdin.buffer)
            except EOFError:
                return
            _write(answers, _reply(answer, content))


def _reply(answer: Callable[[Any], Any], content: bytes) -> bytes:
    """A pickled answer, or what was raised instead."""
    try:
        return pickle.dumps(("answer", answer(pickle.loads(content))))
    except DynexportError as error:
        return pickle.dumps(("raised", str(error)))
    except Exception as error:  # an import may raise anything
        return pickle.dumps(("failed", _reason(error)))


def _reason(error: BaseException) -> str:
    """The first line of the first cause; packages wrap it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _call(_: object, function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)


def _write(stream: IO[bytes], content: bytes) -> None:
    """Framed, so that what cannot be unpickled is read to its end."""
    pickle.dump(content, stream)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes:
    content: bytes = pickle.load(stream)
    return content
