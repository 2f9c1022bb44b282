"""What a check finds."""

from enum import StrEnum

from pydantic import BaseModel


class Outcome(StrEnum):
    """The outcome of a check; NOT_CHECKED says nothing about the cloud."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, but no reason to stop."""
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


class Finding(BaseModel):
    """One line: what was checked, what was found, and what to do, if anything."""

    looked_at: str
    result: Outcome
    found: str
    to_do: str = ""


class CannotCheckError(Exception):
    """Why something could not be checked."""


def ok(looked_at: str, found: str) -> Finding:
    """As the program needs it."""
    return Finding(looked_at=looked_at, result=Outcome.OK, found=found)


def note(looked_at: str, found: str, to_do: str = "") -> Finding:
    """Worth knowing."""
    return Finding(looked_at=looked_at, result=Outcome.NOTE, found=found, to_do=to_do)


def problem(looked_at: str, found: str, to_do: str) -> Finding:
    """An `up` would fail, or its result would not work."""
    return Finding(looked_at=looked_at, result=Outcome.PROBLEM, found=found, to_do=to_do)


def not_checked(looked_at: str, reason: object) -> Finding:
    """It could not be checked."""
    return Finding(looked_at=looked_at, result=Outcome.NOT_CHECKED, found=f"not checked: {reason}")
