"""The real kernel holds back new connections while the VIP moves on purpose, for two seconds at most."""

import subprocess

from operate.maintenance.moves import hold_back

VIP = "127.0.0.9"
# Each line of its output is what became of a connection.
SCRIPT = """
ip link set lo up
socat TCP-LISTEN:6443,fork,reuseaddr /dev/null & server=$!
until nc -z 127.0.0.1 6443; do sleep 0.1; done
try() { nc -z -w 1 "$1" 6443 && echo taken || echo held; }
try "$VIP"
nft "$HOLD" && nft "$HOLD"
try "$VIP"
try 127.0.0.1
sleep 2
try "$VIP"
kill $server
"""


def test_only_new_connections_to_the_vip_are_held_back_and_only_for_two_seconds():
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", SCRIPT],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VIP": VIP, "HOLD": hold_back(VIP)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == ["taken", "held", "taken", "taken"], done.stderr
