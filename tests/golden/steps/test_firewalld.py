"""`configure` and `./ha preflight --boot` where firewalld does not start, because the kernel lacks a module."""

from pathlib import Path

import pytest

from model.rendering import try_firewalld_script
from model.settings import Settings
from tests.golden.steps.sandbox import Sandbox
from tests.golden.steps.test_configure import script
from tests.unit.example import example_values

# What firewalld 1.3 and 2.3 log when the kernel refuses a rule; the second line is the whole ruleset.
JOURNAL = """cat <<'END'
ERROR: 'python-nftables' failed: internal:0:0-0: Error: Could not process rule: No such file or directory

JSON blob:
{"nftables": []}
END"""
FRONTEND = {"name": "ingress", "port": 443, "targetPort": 30443, "allowedCidrs": ["203.0.113.0/24"]}


@pytest.fixture
def host(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def without(host: Sandbox, *expressions: str) -> None:
    """The kernel lacks these; nft says so as the real one does."""
    refused = "|".join(expressions)
    host.put(
        "nft",
        f"! grep -E '{refused}' || {{ echo 'Error: Could not process rule: No such file or directory' >&2; exit 1; }}",
    )


def gives_up(host: Sandbox) -> None:
    """firewalld ends as soon as it has been started: systemd has it as active until then."""
    host.put("firewall-cmd", 'rm -f "$UNITS/firewalld"; exit 252')
    host.put("journalctl", JOURNAL)


def settings(**values: object) -> Settings:
    return Settings.parse(example_values(**values))


def test_the_kernel_of_this_machine_takes_each_rule(host: Sandbox):
    done = host.run(try_firewalld_script(settings(frontends=[FRONTEND])))
    assert (done.returncode, done.stdout) == (0, "firewalld runs\n"), done.stderr


def test_what_the_kernel_lacks_is_named_with_what_firewalld_says(host: Sandbox):
    gives_up(host)
    without(host, " fib ", " reject ")
    done = host.run(try_firewalld_script(settings()))
    assert done.returncode == 1
    assert "firewalld does not start, because the kernel " in done.stderr
    assert (
        " lacks nft_reject_inet nft_fib_inet: ERROR: 'python-nftables' failed: internal:0:0-0: Error: " in done.stderr
    )
    assert "JSON" not in done.stderr


def test_a_firewalld_that_does_not_start_for_another_reason_is_not_the_kernel_s_fault(host: Sandbox):
    gives_up(host)
    without(host, "nothing")
    done = host.run(try_firewalld_script(settings()))
    assert "firewalld does not start: ERROR: " in done.stderr


@pytest.mark.parametrize(("frontends", "status"), [([], 0), ([FRONTEND], 1)])
def test_the_frontends_limit_is_tried_if_there_are_any(host: Sandbox, frontends: list[object], status: int):
    without(host, " limit ")
    done = host.run(try_firewalld_script(settings(frontends=frontends)))
    assert done.returncode == status, done.stderr
    assert ("lacks nft_limit" in done.stderr) == bool(status)


def test_configure_says_so_as_well(host: Sandbox):
    gives_up(host)
    without(host, " fib ")
    done = host.run(script("first"))
    assert done.returncode == 1
    assert "firewalld does not start, because the kernel " in done.stderr
    assert " lacks nft_fib_inet: ERROR: " in done.stderr
