"""Every timer of failure detection, in milliseconds, and the profiles that choose them together.

What each combination costs and survives is measured: docs/failover.md.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Timers:
    """How fast failures are noticed. All times are milliseconds."""

    advertisement_interval: int
    """The holder tells its peer that it lives (RFC 5798, 5.2.7: hundredths of a second; VRRPv2: whole seconds)."""
    missed_advertisements: int
    """So many missing in a row, plus a skew, and the peer takes the VIP. Many short ones survive packet loss and a
    paused host better than the RFC's three long ones in the same time."""
    watchdog_interval: int
    """The watchdog asks the local HAProxy. One that died is noticed by its closed connection, at once."""
    watchdog_failures: int
    """So many questions in a row without an answer, and HAProxy hangs."""
    api_check_interval: int
    """HAProxy asks a healthy API server whether it is ready."""
    api_check_timeout: int
    """An API server that is connected and does not answer a check within it has failed the check."""
    api_connect_timeout: int
    """HAProxy waits for a connection to an API server, then tries another one."""

    @property
    def master_down_interval(self) -> int:
        """What the peer waits for, without the skew (RFC 5798, 6.1)."""
        return self.advertisement_interval * self.missed_advertisements

    def in_whole_seconds(self) -> Self:
        """The same for VRRPv2, whose advertisements come in whole seconds: three of one (RFC 3768, 5.3.7 and 6.1)."""
        return replace(self, advertisement_interval=1000, missed_advertisements=3)

    @property
    def api_fast_check_interval(self) -> int:
        """The second question after a failed check comes sooner than the next one would."""
        return max(self.api_check_interval * 2 // 5, 100)

    @property
    def reachability_check_interval(self) -> int:
        """HAProxy asks an API server whether it takes connections at all.

        With the watchdog's interval shorter than the master-down interval, so that both load balancers have noticed
        that all servers are gone before the VIP moves for it.
        """
        return self.api_check_interval // 2

    @property
    def api_verdict_seconds(self) -> int:
        """How long a new HAProxy may take to find an API server down: two failed checks, in seconds, rounded up."""
        checks = self.api_check_interval + self.api_fast_check_interval
        return ceil((checks + 2 * (self.api_connect_timeout + self.api_check_timeout)) / 1000)


class Profile(StrEnum):
    """A choice of all timers together."""

    STEADY = "steady"
    DEFAULT = "default"
    FAST = "fast"


PROFILES = {
    # Live migration and oversubscribed hypervisors pause a guest for a second or two; a needless move of the VIP cuts
    # every connection, so it waits for longer than that. It advertises as often as `default`: a standby that is given
    # another profile waits by its own timers until it has heard the holder once, so no profile may wait for less than
    # another one's interval.
    Profile.STEADY: Timers(
        advertisement_interval=100,
        missed_advertisements=25,
        watchdog_interval=500,
        watchdog_failures=4,
        api_check_interval=2000,
        api_check_timeout=2000,
        api_connect_timeout=1000,
    ),
    # 700 ms: a guest that is paused for 500 ms keeps the VIP with one advertisement to spare.
    Profile.DEFAULT: Timers(
        advertisement_interval=100,
        missed_advertisements=7,
        watchdog_interval=100,
        watchdog_failures=5,
        api_check_interval=500,
        api_check_timeout=400,
        api_connect_timeout=300,
    ),
    # Hardware of one's own: nothing pauses a host for a fifth of a second.
    Profile.FAST: Timers(
        advertisement_interval=50,
        missed_advertisements=5,
        watchdog_interval=50,
        watchdog_failures=5,
        api_check_interval=250,
        api_check_timeout=250,
        api_connect_timeout=200,
    ),
}
