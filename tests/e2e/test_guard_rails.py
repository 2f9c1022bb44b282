"""Guard rails and protected resources on a stack that runs: what is stopped, what passes, and how it is destroyed.

Each rail on its own is tested with recorded previews of such a stack, in tests/unit/operate/test_guard_rails.py.
"""

from pathlib import Path

import pytest

from dev.lab.settings import LabSettings
from dev.lab_stack import StackError, ssh_key
from operate.guard_rails import Rail
from operate.stack.files import ROOT
from tests.e2e.harness import System, run

PASSWORD = "n3ver-ou"  # noqa: S105 - set for a preview alone
VIP = str(LabSettings.from_environ().tenant_network[240])
NOTHING = "No guard rail stops this.\n"


def preview(system: System, file: Path, *options: str) -> Path:
    """What `pulumi preview` would hand to `./ha guard`."""
    file.write_text(system.pulumi("preview", "--json", "--show-sames", *options).stdout)
    return file


def guard(file: Path, *arguments: str) -> tuple[int, str]:
    found = run(ROOT / "ha", "guard", file, *arguments)
    return found.returncode, found.stdout + found.stderr


def verdicts(said: str) -> dict[str, str]:
    """What became of each rail that caught something: allowed or stopped."""
    words = [line.partition(": ")[0].split() for line in said.splitlines()]
    return {rail: verdict for verdict, rail in (it for it in words if it[0] in ("allowed", "stopped"))}


def test_every_rail_stops_its_change_unless_it_is_allowed_by_name(watched: System, tmp_path: Path):
    watched.configure(
        loadBalancerFlavor="lab.large",
        controlPlaneFlavor="lab.medium",
        vip=VIP,
        apiAllowedCidrs=["0.0.0.0/0"],
    )
    file = preview(watched, tmp_path / "preview.json")
    status, said = guard(file)
    assert status == 1, said
    caught = {
        Rail.BOTH_LOAD_BALANCERS: "watched-lb-0 and watched-lb-1",
        Rail.VIP: f"to {VIP}",
        Rail.CONTROL_PLANE_MAJORITY: "of the control plane's ",
        Rail.OPEN_TO_THE_WORLD: "admits 0.0.0.0/0 to tcp 6443",
    }
    for rail, named in caught.items():
        assert f"stopped {rail}: " in said
        assert named in said
    status, said = guard(file, f"--allow={Rail.VIP}")
    assert status == 1
    assert verdicts(said) == {rail: "allowed" if rail is Rail.VIP else "stopped" for rail in caught}
    status, said = guard(file, *(f"--allow={rail}" for rail in Rail))
    assert status == 0, said
    assert verdicts(said) == dict.fromkeys(caught, "allowed")


def test_a_replaced_security_group_of_the_load_balancers_is_stopped(watched: System, tmp_path: Path):
    """The engine shows the rules' new group as unknown, and no other rail catches it."""
    watched.configure()
    status, said = guard(preview(watched, tmp_path / "preview.json", "--replace", "**secGroup:SecGroup::watched-lb"))
    assert status == 1, said
    assert verdicts(said) == {Rail.VIP: "stopped"}


@pytest.mark.parametrize(
    "config", [{}, {"failoverProfile": "steady", "controlPlaneCount": 5, "workerCount": 1}], ids=["same", "larger"]
)
def test_changes_that_take_nothing_away_pass(watched: System, config: dict[str, object]):
    watched.configure(**config)
    assert watched.ha("guard").stdout == NOTHING


def test_a_failed_preview_is_no_answer(watched: System):
    with pytest.raises(StackError):
        watched.stack.preview(watched.config | {"controlPlaneCount": 4})
    said = watched.ha("guard", status=2).words
    assert "controlPlaneCount = '4'" in said
    assert "Traceback" not in said


def test_a_pull_request_shows_no_secret(watched: System):
    watched.configure(vrrpPassword=PASSWORD)
    out = ROOT / "build" / "pull-request"
    for target in ("preview", "render-diff", "pull-request-comment", "guard"):
        made = run("make", target, f"STACK={watched.name}", "BASE=HEAD")
        assert made.returncode == 0, made.stderr
    key = ssh_key().private.splitlines()[1:-1]
    for file in ("preview.json", "preview.txt", "comment.md", "summary.md"):
        text = (out / file).read_text()
        assert "watched-lb-0-configure" in text
        assert PASSWORD not in text
        assert not [line for line in key if line in text]


def test_the_vip_is_protected_and_may_change_its_address_in_place(watched: System):
    watched.configure()
    for command in (["destroy", "--yes"], ["preview", "--replace", "**::watched-vip"]):
        refused = watched.pulumi(*command)
        assert refused.returncode != 0
        assert "protect" in refused.stdout + refused.stderr
    assert len(watched.stack.outputs().load_balancers) == 2
    changes = watched.up(vip=VIP)
    assert ("update", "watched-vip") in {(change.op, change.name) for change in changes}
    assert watched.outputs.vip == VIP
    # The floating IP follows it.
    watched.wait_for_all_backends()
    assert watched.ha("guard").stdout == NOTHING


def test_a_destroy_that_ignores_the_protection_deletes_everything(watched: System):
    destroyed = watched.pulumi("destroy", "--yes", "--ignore-protect")
    assert destroyed.returncode == 0, destroyed.stdout + destroyed.stderr
    assert "watched-vip" in destroyed.stdout
    assert watched.left_in_the_cloud() == []
