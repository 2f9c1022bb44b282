"""Pulumi's command line. No other module starts Pulumi.

Not the Automation API, which selects the stack that it works on: the next plain `pulumi` in this folder would then use
another stack than before.
"""

import shlex
import subprocess

from operate.signals import run_in_foreground
from operate.stack.files import ROOT

PULUMI = ROOT / "toolchain" / "pulumi"
"""Finds the CLI wherever it is, and takes the caller's backend, passphrase and PATH as they are."""


class StackError(Exception):
    """What Pulumi could not do, why, and what to do; its text is shown as it is."""


def query(*arguments: str) -> str:
    """What a Pulumi command prints; StackError with Pulumi's own message if it fails."""
    done = _captured(*arguments)
    if done.returncode:
        # Its output may have secrets in it by then.
        printed = "" if "--show-secrets" in arguments else done.stdout.strip()
        reason = done.stderr.strip() or printed or f"it ended with status {done.returncode} and no message"
        raise StackError(f"pulumi {' '.join(arguments[:2])} failed: {reason}")
    return done.stdout


def preview(stack: str | None, *arguments: str) -> str:
    """`pulumi preview` as JSON, unchanged resources included; a preview that failed says so in it.

    StackError if Pulumi printed nothing.
    """
    done = _captured("preview", "--json", "--show-sames", *(["--stack", stack] if stack else []), *arguments)
    if not done.stdout.strip():
        raise StackError(f"pulumi preview failed: {done.stderr.strip()}")
    return done.stdout


def run_pulumi(*arguments: str, stack: str, again: str) -> None:
    """Run Pulumi on a stack in the foreground, where it may ask its own questions.

    StackError if it fails; its text names `again`, the command of ours to repeat.
    """
    status = run_in_foreground([PULUMI, *arguments], ROOT)
    if status:
        raise StackError(
            f"pulumi {shlex.join(arguments)} failed with status {status}: fix the error above, then run `{again}` "
            "again. If the stack is locked, another operator's `pulumi` is running: wait for it. A `pulumi` that was "
            f"killed leaves its lock behind: once you are sure, remove it with `pulumi cancel --stack {stack}`"
        )


def _captured(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PULUMI, *arguments, "--non-interactive"], cwd=ROOT, capture_output=True, text=True, check=False
    )
