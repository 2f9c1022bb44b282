"""The engine and its plugins are on PATH."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from operate.stack.files import ROOT


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[None]:
    install = [ROOT / "toolchain/install", "--print-bin-dir"]
    front = subprocess.run(install, check=True, capture_output=True, text=True).stdout.strip()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{ROOT / '.venv/bin'}:{front}:{os.environ['PATH']}")
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.delenv("SSH_AUTH_SOCK", raising=False)
        yield
