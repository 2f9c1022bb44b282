"""How the end-to-end tests' stories are run."""

import pytest

from tests.e2e import stories


def test_the_others_do_not_wait_for_a_story_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch):
    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(stories, "show", closed)
    monkeypatch.setattr(stories, "STORIES", {"cluster": ("no_such_module",)})
    story = stories.Story("cluster", 0, extended=False)
    with pytest.raises(BrokenPipeError):
        story.run()
    assert story.destroying.is_set()
