"""Which load balancer answers at an address. The program queries the VIP, to configure the standby before the holder.

`operate` uses this module too; it needs nothing of Pulumi.
"""

import http.client
import urllib.request

from model.topology import HEALTH_PORT

# Whatever proxy the environment names: it has no route to these addresses, or a different one from the clients'.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answering_load_balancer(address: str, seconds: float = 2) -> str | None:
    """The name of the load balancer whose HAProxy answers at an address, its own or the VIP; None without an answer."""
    try:
        with _DIRECT.open(f"http://{address}:{HEALTH_PORT}/healthz", timeout=seconds) as answer:
            return answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return None
