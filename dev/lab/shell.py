"""Runs other programs."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.lab.errors import LabError

_SHOWN_LINES = 15


def run(
    command: Sequence[str | Path], *, check: bool = True, log: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Runs a program and returns its standard output.

    With `log`, standard output and error go to that file and the result is empty. With `check`, a failure raises
    LabError with the last lines of output.
    """
    arguments = [str(part) for part in command]
    if log is None:
        result = subprocess.run(arguments, capture_output=True, text=True, env=env, check=False)
        stdout, printed = result.stdout, result.stdout + result.stderr
    else:
        with log.open("w") as out:
            result = subprocess.run(arguments, stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
        stdout, printed = "", log.read_text(errors="replace") if result.returncode else ""
    if check and result.returncode:
        tail = "\n".join(printed.strip().splitlines()[-_SHOWN_LINES:])
        where = f"\nFull output: {log}" if log else ""
        raise LabError(f"`{' '.join(arguments[:6])}` failed (exit {result.returncode}):\n{tail}{where}")
    return stdout
