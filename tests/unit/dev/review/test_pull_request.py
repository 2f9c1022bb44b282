"""The Markdown of a pull request's comment."""

from pathlib import Path

import pytest

from dev.review.pull_request import COMMENT, SUMMARY, Section, compose, cut, fenced, verdict
from operate.guard_rails import Rail

PREVIEWS = Path(__file__).parents[2] / "operate/previews"


def test_the_verdict_distinguishes_a_failed_preview_from_one_that_passes():
    assert "cannot check" in verdict((PREVIEWS / "wrong-value.json").read_text(), [])
    assert "controlPlaneCount = '4'" in verdict((PREVIEWS / "wrong-value.json").read_text(), [])
    assert "cannot check" in verdict("", [])
    assert verdict((PREVIEWS / "no-changes.json").read_text(), []) == "The guard rails found nothing.\n"
    both = (PREVIEWS / "key-pair.json").read_text()
    assert "allow:NAME" in verdict(both, [Rail.BOTH_LOAD_BALANCERS])
    assert "allow:NAME" not in verdict(both, [Rail.BOTH_LOAD_BALANCERS, Rail.CONTROL_PLANE_MAJORITY])


@pytest.mark.parametrize(
    ("text", "fence"), [("plain", "```"), ("```\nfence\n```", "````"), ("a `````b", "``````"), ("", "```")]
)
def test_a_fence_is_longer_than_any_fence_in_the_text(text: str, fence: str):
    lines = fenced(text, "diff").splitlines()
    assert (lines[0], lines[-1]) == (f"{fence}diff", fence)


def test_a_cut_text_says_how_many_lines_are_missing_and_where_they_are():
    text = "".join(f"line {index}\n" for index in range(1000))
    short = cut(text, 200, "elsewhere")
    kept = short.splitlines()
    assert len(short.encode()) <= 200
    assert kept[-1] == f"... {1000 - len(kept) + 1} more lines: elsewhere"
    assert kept[:-1] == text.splitlines()[: len(kept) - 1]
    assert cut("short", 200, "elsewhere") == "short"


@pytest.mark.parametrize(
    ("line", "limit"),
    [("+ a line\n", COMMENT), ("+ ````````\n", COMMENT), ("+ Zürich → ½\n", COMMENT), ("+ a line\n", SUMMARY)],
)
def test_a_long_comment_is_cut_to_its_limit_and_keeps_the_short_section_whole(line: str, limit: int):
    long, short = Section("Long", line * (limit // 5), "diff"), Section("Short", "one line", "")
    for sections in ([long, short], [short, long], [long, Section("Longer", long.text * 2, "diff")]):
        text = compose("## Head\n", sections, limit, "elsewhere")
        assert limit * 0.9 < len(text.encode()) <= limit
        assert "more lines: elsewhere" in text
        assert text.count("<details>") == text.count("</details>") == 2
        if short in sections:
            assert "\none line\n" in text
