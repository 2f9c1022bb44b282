"""What a check tells."""

from enum import StrEnum

from pydantic import BaseModel


class Result(StrEnum):
    """How a check came out; NOT_LOOKED_AT says nothing about the cloud."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing, and no reason to stop."""
    PROBLEM = "problem"
    NOT_LOOKED_AT = "not looked at"


class Finding(BaseModel):
    """One line: what was looked at, what was found, and what to do if that is anything."""

    looked_at: str
    result: Result
    found: str
    to_do: str = ""


class CannotLookError(Exception):
    """Why a check could not look; its text follows "because"."""


def ok(looked_at: str, found: str) -> Finding:
    """All is as the program needs it."""
    return Finding(looked_at=looked_at, result=Result.OK, found=found)


def note(looked_at: str, found: str, to_do: str = "") -> Finding:
    """Worth knowing."""
    return Finding(looked_at=looked_at, result=Result.NOTE, found=found, to_do=to_do)


def problem(looked_at: str, found: str, to_do: str) -> Finding:
    """An `up` would fail, or what it makes would not work."""
    return Finding(looked_at=looked_at, result=Result.PROBLEM, found=found, to_do=to_do)


def not_looked_at(looked_at: str, reason: object) -> Finding:
    """It could not be looked at."""
    return Finding(looked_at=looked_at, result=Result.NOT_LOOKED_AT, found=f"not looked at, because {reason}")
