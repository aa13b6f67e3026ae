"""Finding the one line in a log or a stack trace that says why."""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 32_768


def last_cause(text: str) -> str:
    """The innermost cause: of a Python traceback its error, of a Java stack trace the last "Caused by", else the last line."""
    lines = [line.strip() for line in text.splitlines()]
    # A traceback quoted inside a Java exception is nearer to what the user wrote than the exceptions around it.
    tracebacks = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if tracebacks:
        after = lines[tracebacks[-1] + 1 :]
        number = next((number for number, line in enumerate(after) if _is_python_error(line)), None)
        if number is not None:
            return _java_cause(after[number + 1 :]) if "Py4JJavaError" in after[number] else after[number]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if causes:
        return causes[-1]
    return next((line for line in reversed(lines) if line and not line.startswith(("at ", "..."))), "")


def last_cause_in(log: Path) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return last_cause(file.read().decode(errors="replace"))


def _java_cause(lines: list[str]) -> str:
    """Why Java refused a call from Python: its stack trace follows the Python error and begins with a colon."""
    end = next((number for number, line in enumerate(lines) if "ProgramAbortException" in line), len(lines))
    causes = [line.removeprefix("Caused by: ") for line in lines[:end] if line.startswith("Caused by: ")]
    return (causes or [line.removeprefix(": ") for line in lines[:end] if line.startswith(": ")] or [""])[-1]


def _is_python_error(line: str) -> bool:
    """`module.SomeError: message`, or a bare `SomeError`."""
    name = line.partition(":")[0]
    return all(part.isidentifier() for part in name.split(".")) and name[-1:].isalpha() and name != "File"
