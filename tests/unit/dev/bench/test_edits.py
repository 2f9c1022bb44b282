"""The bench changes all configurations in the same way."""

from itertools import product

import pytest

from dev.bench.configurations import CONFIGURATIONS
from dev.bench.faults import with_second_vip, without_last_api_server
from dev.bench.world import ADDRESSES, API_SERVERS, LOAD_BALANCERS, VIP, hosts

EVERY_HOST = pytest.mark.parametrize(("name", "host"), list(product(CONFIGURATIONS, LOAD_BALANCERS)))


def text(name: str, host: str, path: str) -> str:
    """The text of a file of a configuration on a host."""
    (of_host,) = (one for one in hosts() if one.name == host)
    (found,) = (file.text for file in CONFIGURATIONS[name].files(of_host) if file.path == path)
    return found


@EVERY_HOST
def test_removing_the_last_api_server_changes_one_line_of_each_backend(name: str, host: str):
    before = text(name, host, "etc/haproxy/haproxy.cfg").splitlines()
    after = without_last_api_server("\n".join(before)).splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    # Our configuration has a second backend with the same servers.
    assert len(changed) == (2 if name in ("default", "fast", "steady") else 1)
    for old, new in changed:
        assert old.split()[0] == "server"
        assert old.split()[2].startswith(f"{ADDRESSES[API_SERVERS[-1]]}:")
        assert new.startswith("#")
        assert new.endswith(old)
    servers = [line for line in after if line.lstrip().startswith("server ")]
    assert len(servers) == (len(API_SERVERS) - 1) * len(changed)


@EVERY_HOST
def test_a_second_vip_adds_one_line_below_the_first(name: str, host: str):
    before = text(name, host, "etc/keepalived/keepalived.conf").splitlines(keepends=True)
    after = with_second_vip("".join(before)).splitlines(keepends=True)
    assert len(after) == len(before) + 1
    (place,) = (place for place, line in enumerate(after) if str(VIP + 1) in line)
    assert after[:place] + after[place + 1 :] == before
    assert after[place] == after[place - 1].replace(str(VIP), str(VIP + 1))
