"""The output of `pulumi preview --json --show-sames`, parsed. Pure; no I/O."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from operate.stack.engine import StackError

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""What Pulumi writes for a value that is not known before the run."""
# Pulumi's closing lines, which only repeat that the program or the preview failed.
_REPEATED = ("error: preview failed", "error: an unhandled error occurred: program exited")


class State(BaseModel):
    """A resource before or after the change."""

    id: str = ""
    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}


class Step(BaseModel):
    """What happens to one resource; a replacement is shown as one step or as several."""

    op: str
    urn: str = Field(pattern="^urn:pulumi:.*::.*::.*::")
    old: State | None = Field(None, alias="oldState")
    new: State | None = Field(None, alias="newState")
    difference: dict[str, Any] | None = Field(None, alias="detailedDiff")

    @property
    def name(self) -> str:
        """The resource's name."""
        return self.urn.rpartition("::")[2]

    @property
    def type(self) -> str:
        """The resource's type, without its parents'."""
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def inputs(self) -> dict[str, Any]:
        """The program's values; empty if the resource is deleted."""
        return self.new.inputs if self.new else {}

    def changes(self, key: str) -> bool:
        """Whether the resource is updated in place with a different value at `key` or below it."""
        return self.op == "update" and any(path.startswith(key) for path in self.difference or {})


class _Diagnostic(BaseModel):
    severity: str = ""
    message: str


class _Preview(BaseModel):
    steps: list[Step]
    diagnostics: list[_Diagnostic] = []
    summary: dict[str, int] = Field({}, alias="changeSummary")


def parse_preview(preview: str) -> Collection[Step]:
    """The steps of a preview, unchanged resources included.

    StackError if it is no such output, or if the preview failed: a failed preview is incomplete.
    """
    try:
        parsed = _Preview.model_validate_json(preview)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise StackError(
            f"not the output of `pulumi preview --json`: {where} {problem['msg']}; if Pulumi failed, see its own error"
        ) from None
    errors = [it.message.strip() for it in parsed.diagnostics if it.severity == "error"]
    if errors:
        causes = [message for message in errors if not message.startswith(_REPEATED)] or errors
        raise StackError("the preview failed, so it cannot be checked:\n" + "\n".join(dict.fromkeys(causes)))
    if sum(step.op == "same" for step in parsed.steps) < parsed.summary.get("same", 0):
        # Without them, how many members the control plane keeps is unknown.
        raise StackError("the preview lacks unchanged resources: write it with `--show-sames` (`make preview` does)")
    return parsed.steps
