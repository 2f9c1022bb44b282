"""The Makefile's targets, and the targets that a text names."""

import re

from operate.stack.files import ROOT


def make_targets() -> set[str]:
    """Every named target of the Makefile; files are left out."""
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def targets_named(script: str) -> set[str]:
    """The targets of every `make ...` in a shell script."""
    commands = re.findall(r"(?:^|[;&|(\s])make((?:[ \t]+[A-Za-z][\w=./-]*)+)", script, re.MULTILINE)
    return {word for words in commands for word in words.split() if "=" not in word}
