"""The make targets of a pull request, run in a repository of their own: how two commits differ in what they render."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dev.review import pull_request
from operate.guard_rails import Rail
from operate.stack.files import ROOT

PREVIEWS = ROOT / "tests/unit/operate/previews"
CIPHERTEXT = "v1:c2VjcmV0:bm90IHRvIGJlIHNob3du"
HAPROXY = "templates/load_balancer/etc/haproxy/haproxy.cfg.j2"
DIFFERENCES = ("render-diff", "preview-against-mocks")


class Repository:
    """A copy of the checkout: `old` is a commit without the review tools, `base` the project as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # With its modification time, so that make finds the Python packages up to date.
                shutil.copy2(ROOT / name, folder / name)
        self._git("init", "--quiet")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        (folder / ".git" / "info" / "exclude").write_text(".venv\nbuild\n")
        self._git("add", "--all", ":!dev/review")
        self._git("commit", "--quiet", "--message=old")
        self._git("tag", "old")
        self.commit("base")
        self._git("tag", "base")

    def _git(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgSign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=cwd or self.folder, capture_output=True, text=True, check=True).stdout

    def reset(self) -> None:
        """Go back to `base`, with nothing built."""
        self._git("reset", "--quiet", "--hard", "base")
        shutil.rmtree(self.folder / "build", ignore_errors=True)

    def commit(self, message: str) -> None:
        self._git("add", "--all")
        self._git("commit", "--quiet", f"--message={message}")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "ALLOW", "STACK", "BASE")}
        return subprocess.run(
            ["make", "--silent", *arguments], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def compose(self, *allow: Rail) -> None:
        """What `make pull-request-comment` runs, without another process."""
        pull_request.main("dev", self.folder / "build" / "pull-request", [*allow])

    def output(self, name: str) -> str:
        return (self.folder / "build" / "pull-request" / name).read_text()


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def repository(copied: Repository) -> Repository:
    copied.reset()
    return copied


def added(diff: str) -> list[str]:
    return [line[1:].strip() for line in diff.splitlines() if re.match(r"\+[^+]", line)]


def test_a_template_change_shows_on_both_load_balancers_and_in_the_comment(repository: Repository):
    repository.edit(HAPROXY, "maxconn {{ connections }}", "maxconn 10000")
    repository.commit("change")
    done = repository.make(*DIFFERENCES, "pull-request-comment", "BASE=base")
    assert done.returncode == 0, done.stderr
    for file, changed_file in (("files.diff", "haproxy.cfg"), ("resources.diff", "-configure.yaml")):
        diff = repository.output(file)
        assert added(diff).count("maxconn 10000") == 2
        changed = re.findall(r"^\+\+\+ b/head/(\S+)", diff, re.MULTILINE)
        assert [name.endswith(changed_file) for name in changed if "prove" not in name] == [True, True]
    for text in (repository.output("comment.md"), repository.output("summary.md")):
        assert text.startswith("## Preview of `dev`\n")
        assert "No credentials" in text
        assert "maxconn 10000" in text


def test_a_configuration_change_shows_and_secrets_do_not(repository: Repository):
    stack = "Pulumi.dev.yaml"
    secret = f"  openstack-ha-api:vrrpPassword:\n    secure: {CIPHERTEXT}\n"
    repository.edit(stack, "  openstack-ha-api:clusterName: dev\n", "  openstack-ha-api:clusterName: dev\n" + secret)
    repository.edit(stack, "    - 198.51.100.0/24\n", "    - 198.51.100.0/25\n")
    repository.commit("change")
    done = repository.make(*DIFFERENCES, "BASE=base")
    assert done.returncode == 0, done.stderr
    repository.compose()
    summary = repository.output("summary.md")
    for shown in ("remoteIpPrefix: 198.51.100.0/25", "auth_pass (secret)", "stdin: (secret)"):
        assert shown in summary
    for unwanted in (CIPHERTEXT, "standin", "PRIVATE KEY"):
        assert unwanted not in summary


def test_without_a_change_both_differences_are_empty(repository: Repository):
    assert repository.make(*DIFFERENCES, "BASE=base").returncode == 0
    repository.compose()
    assert repository.output("files.diff") == repository.output("resources.diff") == ""
    assert repository.output("comment.md").count("No changes.") == 2


def test_where_the_base_cannot_be_rendered_everything_is_new_and_the_reason_is_on_top(repository: Repository):
    done = repository.make("render-diff", "BASE=old")
    assert done.returncode == 0, done.stderr
    diff = repository.output("files.diff")
    assert diff.startswith("The base cannot be rendered")
    assert "No module named" in diff.splitlines()[1]
    assert any(line.startswith("server dev-cp-0 ") for line in added(diff))


def test_a_change_that_cannot_be_rendered_fails_with_the_reason_also_in_the_comment(repository: Repository):
    repository.edit("Pulumi.dev.yaml", "clusterName: dev", "clusterName: $(reboot)")
    repository.commit("change")
    for target in DIFFERENCES:
        # Against the old base, which fails sooner than one that has to be rendered.
        done = repository.make(target, "BASE=old")
        assert done.returncode != 0
        assert "clusterName = '$(reboot)'" in done.stderr
        assert "Traceback" not in done.stderr
    repository.compose()
    assert repository.output("comment.md").count("clusterName = '$(reboot)'") == 2


def test_an_unknown_base_is_reported_with_the_remedy(repository: Repository):
    done = repository.make("render-diff", "BASE=nonsense")
    assert done.returncode != 0
    assert "no base nonsense" in done.stderr
    assert "set BASE" in done.stderr


def test_make_guard_stops_the_previewed_change_unless_it_is_allowed_and_the_comment_says_which(repository: Repository):
    folder = repository.folder / "build" / "pull-request"
    folder.mkdir(parents=True)
    shutil.copy(PREVIEWS / "load-balancer-flavor.json", folder / "preview.json")
    (folder / "preview.txt").write_text("+-openstack:compute/instance:Instance: (replace)\n")

    def comment_says(word: str) -> None:
        comment = repository.output("comment.md")
        assert f"- **{word}: `both-load-balancers`.** dev-lb" not in comment
        assert f"- **{word}: `both-load-balancers`.** guard-lb-0 and guard-lb-1" in comment
        assert "+-openstack:compute/instance:Instance: (replace)" in comment

    # make ends with 2 whatever the status of its command.
    assert repository.make("guard", "ALLOW=").returncode == 2
    for allow in ([], [Rail.VIP]):
        repository.compose(*allow)
        comment_says("Stopped")
    assert repository.make("guard", "pull-request-comment", "ALLOW=vip both-load-balancers").returncode == 0
    comment_says("Allowed")
