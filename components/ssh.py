"""The command ssh, with which the program itself logs in: to run a script at once, and to find out what a bastion does.

Nothing of the user's own configuration takes part, and no agent.
"""

import shlex
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from model.settings import BastionFault, BastionSettings, openssh_private_key

OWN_FAILURE = 255
"""ssh's exit status for its own failures (ssh(1))."""
# In what ssh prints in English, which it does whatever the locale.
_FAULTS = {
    "Host key verification failed": BastionFault.HOST_KEY,
    "Permission denied": BastionFault.LOGIN,
    "administratively prohibited": BastionFault.FORWARDING,
}
_BEHIND = "open failed: connect failed"
"""The bastion has tried to reach the host."""


def run_script(
    login: str, bastion: BastionSettings | None, private_key: str, known_hosts: str, script: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as root on a host (`login` is USER@ADDRESS)."""
    with _ssh(private_key, known_hosts) as ssh:
        proxy = ["-o", f"ProxyCommand={shlex.join(_through(ssh, bastion, '%h:%p'))}"] if bastion else []
        return subprocess.run(
            [*ssh, *proxy, login, "sudo -n bash -s"],
            input=script,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
        )


def bastion_problem(bastion: BastionSettings, private_key: str, address: str) -> str | None:
    """Why a bastion lets no connection through to a host's SSH, and what to do; None if it does.

    Also None if the host does not answer it: then the bastion works.
    """
    with _ssh(private_key, bastion.known_hosts) as ssh:
        try:
            done = subprocess.run(
                _through(ssh, bastion, f"{address}:22"),
                stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, errors="replace", timeout=45,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # Without the bastion ssh would have ended by itself (ConnectTimeout): it is waiting for the host.
            return None
    said = done.stderr.strip()
    if done.returncode != OWN_FAILURE or _BEHIND in said:
        return None
    fault = next((fault for words, fault in _FAULTS.items() if words in said), BastionFault.UNREACHABLE)
    found, to_do = bastion.problem(fault)
    return f"the bastion {bastion.host}: {found} ({said.splitlines()[-1] if said else 'no reason'}); {to_do}"


@contextmanager
def _ssh(private_key: str, known_hosts: str) -> Generator[list[str]]:
    with TemporaryDirectory() as folder:
        key, known = Path(folder, "key"), Path(folder, "known_hosts")
        key.touch(mode=0o600)
        key.write_text(openssh_private_key(private_key))
        known.write_text(known_hosts)
        ssh = ["ssh", "-F", "none", "-i", str(key)]
        for option in (
            "BatchMode=yes", "ConnectTimeout=15", "IdentitiesOnly=yes", "IdentityAgent=none",
            "ServerAliveInterval=15", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}",
        ):  # fmt: skip
            ssh += ["-o", option]
        yield ssh


def _through(ssh: list[str], bastion: BastionSettings, target: str) -> list[str]:
    return [*ssh, "-W", target, "-p", str(bastion.port), f"{bastion.user}@{bastion.host}"]
