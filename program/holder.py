"""Who holds the VIP before anything is changed: the other load balancer is changed first."""

import http.client
import urllib.request

from model.topology import HEALTH_PORT


def ask_holder(vip: str) -> str | None:
    """The name that answers on the VIP; None where nobody does, or where nobody can be reached from here."""
    try:
        # Directly, whatever proxy the environment names: the way to the VIP that clients have.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{vip}:{HEALTH_PORT}/healthz", timeout=2) as answer:
            return answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):  # urllib's errors are OSErrors
        return None
