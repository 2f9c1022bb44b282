"""Undoes what a command has done if it fails or is interrupted: one action after the other, the last first."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from keystoneauth1.exceptions import ClientException
from openstack.exceptions import SDKException
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from operate.signals import uninterrupted

UNDO_SECONDS = 30.0
"""How long an action is tried to be undone: the cloud that failed the last action may fail for some seconds more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Action:
    """A change that was made, or may have been made, and the way back."""

    what: str
    """What the undo restores, for example "the address pairs of old-1"."""
    undo: Callable[[], object]
    """Without effect if the change was never made."""
    command: str
    """Does the same in a shell."""
    is_prerequisite: bool = False
    """Whether the actions before this one may be undone only after it."""


@contextmanager
def undone_on_failure(report: Callable[[str], None]) -> Generator[list[Action]]:
    """Undo all actions in the list if the block raises anything, and raise it again.

    The block appends an action before it carries it out: a request that failed may have taken effect. What cannot be
    undone is reported, with all commands that are left, in their order. The undoing ends after the current action on
    Ctrl-C, and at a prerequisite that cannot be undone.
    """
    done: list[Action] = []
    try:
        yield done
    except BaseException:
        left = done[::-1]
        with suppress(KeyboardInterrupt):
            for action in done[::-1]:
                with uninterrupted():
                    interrupted = False
                    try:
                        _patiently(action.undo)
                    except Exception as error:
                        _try(report, f"not undone: {action.what}: {error}")
                        if action.is_prerequisite:
                            break
                        continue
                    except KeyboardInterrupt:
                        # All other signals wait: this one is from `run_in_foreground`, whose program succeeded.
                        interrupted = True
                    left.remove(action)
                    _try(report, f"undone: {action.what}")
                    if interrupted:
                        break
        if left:
            _try(
                report, "Not undone; run these commands in this order:\n" + "\n".join(f"  {it.command}" for it in left)
            )
        raise


def _patiently(undo: Callable[[], object]) -> None:
    for attempt in Retrying(
        retry=retry_if_exception_type((SDKException, ClientException)),
        stop=stop_after_delay(UNDO_SECONDS),
        wait=wait_fixed(2),
        reraise=True,
    ):
        with attempt:
            undo()


def _try(report: Callable[[str], None], text: str) -> None:
    # A terminal that was closed must not end the undoing.
    with suppress(OSError):
        report(text)
