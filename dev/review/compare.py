"""Shows how a branch changes the files that a tool writes: `make render-diff`, `make preview-against-mocks`.

The tool runs in the checkout, and in a copy of the base with the base's own program and stack file.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from operate.stack.files import ROOT


def _written(tool: str, stack: str, out: Path, tree: Path) -> str:
    """Run a tree's own tool, which writes its files to `out`. Returns its error, or an empty text."""
    out.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", tool, stack, out], cwd=tree, capture_output=True, text=True, check=False
    )
    return (result.stderr.strip() or result.stdout.strip() or "it printed no reason") if result.returncode else ""


def main(
    tool: Annotated[str, typer.Argument(help="Module that writes files: `python -m TOOL STACK FOLDER`.")],
    stack: Annotated[str, typer.Argument(help="The stack, as in Pulumi.STACK.yaml.")],
    base: Annotated[str, typer.Argument(help="The commit or branch to compare with.")],
    diff: Annotated[Path, typer.Argument(help="File for the difference; empty if nothing differs.")],
) -> None:
    """Write how a tool's files differ between a base and the checkout.

    If the base's tool fails (it may not exist there yet), all files are shown as new, after the reason. If the
    checkout's tool fails, the reason is written to the file and the exit status is 1.
    """
    diff.parent.mkdir(parents=True, exist_ok=True)
    diff.unlink(missing_ok=True)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive, tree = folder / "base.tar", folder / "tree"
        command = ["git", "archive", "--format=tar", f"--output={archive}", base]
        fetched = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if fetched.returncode:
            sys.exit(f"no base {base} to compare with: {fetched.stderr.strip()}; fetch it, or set BASE")
        tree.mkdir()
        subprocess.run(["tar", "--extract", "--file", archive, "--directory", tree], check=True)
        old_error = _written(tool, stack, folder / "base", tree)
        error = _written(tool, stack, folder / "head", ROOT)
        if error:
            diff.write_text(f"{tool} fails for the stack {stack}:\n{error}\n")
            sys.exit(diff.read_text())
        note = f"The base cannot be rendered, so every file is shown as new:\n{old_error}\n\n" if old_error else ""
        # Ignore what the base's tool wrote before it failed.
        old = "base" if not old_error else (folder / "nothing").mkdir() or "nothing"
        shown = subprocess.run(
            ["git", "diff", "--no-index", "--no-color", "--no-ext-diff", old, "head"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if shown.returncode > 1:  # 1: they differ
            sys.exit(f"git cannot compare what {tool} wrote: {shown.stderr.strip()}")
        diff.write_text(note + shown.stdout)


if __name__ == "__main__":
    typer.run(main)
