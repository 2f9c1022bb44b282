"""What a check tells."""

from enum import StrEnum

from pydantic import BaseModel


class Outcome(StrEnum):
    """How a check came out; NOT_CHECKED says nothing about the cloud."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and no reason to stop."""
    PROBLEM = "problem"
    NOT_CHECKED = "not looked at"


class Finding(BaseModel):
    """One line: what was looked at, what was found, and what to do if that is anything."""

    looked_at: str
    result: Outcome
    found: str
    to_do: str = ""


class CannotCheckError(Exception):
    """Why a check could not look; its text follows "because"."""


def ok(looked_at: str, found: str) -> Finding:
    """All is as the program needs it."""
    return Finding(looked_at=looked_at, result=Outcome.OK, found=found)


def note(looked_at: str, found: str, to_do: str = "") -> Finding:
    """Worth knowing."""
    return Finding(looked_at=looked_at, result=Outcome.NOTE, found=found, to_do=to_do)


def problem(looked_at: str, found: str, to_do: str) -> Finding:
    """An `up` would fail, or what it makes would not work."""
    return Finding(looked_at=looked_at, result=Outcome.PROBLEM, found=found, to_do=to_do)


def not_checked(looked_at: str, reason: object) -> Finding:
    """It could not be looked at."""
    return Finding(looked_at=looked_at, result=Outcome.NOT_CHECKED, found=f"not looked at, because {reason}")
