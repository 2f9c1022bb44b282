"""Undoing survives what failed before: a cloud that is slow to recover, a second Ctrl-C, a closed terminal."""

import signal

import pytest
from openstack.exceptions import SDKException

from operate.takeover import undo
from operate.takeover.undo import Action, undone_on_failure


class Recorder:
    """Actions, in the order in which they were undone."""

    def __init__(self) -> None:
        self.undone: list[str] = []
        self.reports: list[str] = []

    def action(self, name: str, *failures: BaseException) -> Action:
        waiting = list(failures)

        def undo() -> None:
            if waiting:
                raise waiting.pop(0)
            self.undone.append(name)

        return Action(what=name, undo=undo, command=f"undo {name}")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)  # pyright: ignore
    return Recorder()


def fail_after(recorder: Recorder, *actions: Action) -> None:
    with pytest.raises(ValueError, match="the cause"), undone_on_failure(recorder.reports.append) as done:
        done.extend(actions)
        raise ValueError("the cause")


def test_success_undoes_nothing(recorder: Recorder):
    with undone_on_failure(recorder.reports.append) as done:
        done.append(recorder.action("a"))
    assert (recorder.undone, recorder.reports) == ([], [])


def test_the_last_action_is_undone_first(recorder: Recorder):
    fail_after(recorder, recorder.action("a"), recorder.action("b"))
    assert recorder.undone == ["b", "a"]
    assert recorder.reports == ["undone: b", "undone: a"]


def test_a_cloud_that_fails_for_some_seconds_is_tried_again(recorder: Recorder):
    fail_after(recorder, recorder.action("a", SDKException("503"), SDKException("503")))
    assert recorder.reports == ["undone: a"]


def test_an_action_that_cannot_be_undone_does_not_stop_the_others(recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(undo, "UNDO_SECONDS", 0)
    fail_after(recorder, recorder.action("a"), recorder.action("b", SDKException("403")), recorder.action("c"))
    assert recorder.undone == ["c", "a"]
    assert "not undone: b: 403" in recorder.reports
    assert recorder.reports[-1].splitlines()[1:] == ["  undo b"]


def test_a_second_ctrl_c_ends_after_the_current_action_and_lists_the_rest(recorder: Recorder):
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        recorder.undone.append("b")

    fail_after(recorder, recorder.action("a"), Action(what="b", undo=interrupted, command="undo b"))
    assert recorder.undone == ["b"]
    assert recorder.reports == ["undone: b", "Not undone; run these commands in this order:\n  undo a"]


def test_nothing_before_a_prerequisite_that_cannot_be_undone_is_undone(recorder: Recorder):
    def fail() -> None:
        raise ValueError("the stack is locked")

    vip = Action(what="the VIP", undo=fail, command="return the VIP", is_prerequisite=True)
    fail_after(recorder, recorder.action("a"), vip, recorder.action("c"))
    assert recorder.undone == ["c"]
    assert recorder.reports[1] == "not undone: the VIP: the stack is locked"
    assert recorder.reports[-1].splitlines()[1:] == ["  return the VIP", "  undo a"]


def test_an_action_that_succeeded_in_spite_of_ctrl_c_is_not_listed_as_left(recorder: Recorder):
    """`run_in_foreground` raises KeyboardInterrupt if its program got Ctrl-C and succeeded nevertheless."""

    def succeed() -> None:
        recorder.undone.append("b")
        raise KeyboardInterrupt

    fail_after(recorder, recorder.action("a"), Action(what="b", undo=succeed, command="undo b"))
    assert recorder.undone == ["b"]
    assert recorder.reports == ["undone: b", "Not undone; run these commands in this order:\n  undo a"]


def test_a_closed_terminal_does_not_end_the_undoing(recorder: Recorder):
    def report(_: str) -> None:
        raise OSError("terminal gone")

    with pytest.raises(ValueError, match="the cause"), undone_on_failure(report) as done:
        done.extend([recorder.action("a"), recorder.action("b")])
        raise ValueError("the cause")
    assert recorder.undone == ["b", "a"]
