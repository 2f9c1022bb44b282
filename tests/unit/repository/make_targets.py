"""The targets that the Makefile has, and those that a text names."""

import re

from operate.stack.files import ROOT


def make_targets() -> set[str]:
    """Every target of the Makefile that is a word."""
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def targets_named(script: str) -> set[str]:
    """The targets of every `make ...` in a shell script."""
    commands = re.findall(r"(?:^|[;&|(\s])make((?:[ \t]+[A-Za-z][\w=./-]*)+)", script, re.MULTILINE)
    return {word for words in commands for word in words.split() if "=" not in word}
