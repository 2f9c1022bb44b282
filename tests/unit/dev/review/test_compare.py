"""The comparison of two commits, where git fails; tests/golden/test_pull_request.py has the rest."""

from pathlib import Path

import pytest

from dev.review import compare

TOOL = "dev.review.render"


def test_without_a_base_the_difference_of_an_earlier_run_does_not_stay(tmp_path: Path):
    diff = tmp_path / "files.diff"
    diff.write_text("of an earlier run")
    with pytest.raises(SystemExit, match="no base nonsense"):
        compare.main(TOOL, "dev", "nonsense", diff)
    assert not diff.exists()


def test_a_comparison_that_fails_is_not_the_absence_of_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    git = tmp_path / "bin/git"
    git.parent.mkdir()
    # An archive without any file.
    git.write_text(
        "#!/bin/sh\ncase $1 in\narchive) exec tar --create --files-from=/dev/null --file=${3#--output=} ;;\n"
        "diff) echo 'fatal: no space left' >&2; exit 128 ;;\nesac\n"
    )
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:/usr/bin:/bin")
    diff = tmp_path / "files.diff"
    with pytest.raises(SystemExit, match="fatal: no space left"):
        compare.main(TOOL, "dev", "HEAD", diff)
    assert not diff.exists()
