"""Every timer of failure detection, in milliseconds, and the profiles that choose them together.

What each combination costs and survives is measured: docs/failover.md.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Timers:
    """How fast failures are noticed. All times are in milliseconds."""

    advertisement_interval: int
    """The holder advertises itself to its peer (RFC 5798, 5.2.7: hundredths of a second; VRRPv2: whole seconds)."""
    missed_advertisements: int
    """After this many missing in a row, plus the skew time, the peer takes the VIP. Many short intervals survive packet
    loss and a paused host better than the RFC's three long ones in the same time."""
    watchdog_interval: int
    """The watchdog checks the local HAProxy. A dead one is noticed at once, by its closed connection."""
    watchdog_failures: int
    """After this many unanswered checks in a row HAProxy counts as hung."""
    api_check_interval: int
    """HAProxy checks whether a healthy API server is ready."""
    api_check_timeout: int
    """An API server that accepts the connection must answer the check within this time."""
    api_connect_timeout: int
    """HAProxy waits this long for a connection to an API server, then tries another one."""

    @property
    def master_down_interval(self) -> int:
        """How long the peer waits, without the skew time (RFC 5798, 6.1)."""
        return self.advertisement_interval * self.missed_advertisements

    @property
    def rival_interval(self) -> int:
        """How long a holder that hears another one advertise waits for it to yield, before it gives up its own place.

        The other one yields at the first advertisement that it receives, which is sent within an interval; one may be
        lost, and a busy host gets 300 ms.
        """
        return 2 * self.advertisement_interval + 300

    @property
    def second_announcement(self) -> int:
        """Seconds until a new holder repeats its gratuitous ARP: only after an unheard old holder has fallen silent.

        That happens at the first advertisement after the rival interval. The old holder keeps the VIP for the restart
        delay, so clients find one of the two at any time.
        """
        return ceil((self.rival_interval + self.advertisement_interval) / 1000)

    @property
    def restart_delay(self) -> int:
        """How long after the end of keepalived systemd starts it again, which takes the VIP off this host.

        By then the peer has taken over, and has announced itself twice if it did not hear this host. A busy peer gets
        300 ms more.
        """
        return max(self.master_down_interval, 1000 * self.second_announcement - self.rival_interval) + 300

    def in_whole_seconds(self) -> Self:
        """The same for VRRPv2, whose advertisements come in whole seconds: three of one (RFC 3768, 5.3.7 and 6.1)."""
        return replace(self, advertisement_interval=1000, missed_advertisements=3)

    @property
    def api_fast_check_interval(self) -> int:
        """The interval after a failed check: shorter, so that the second check decides soon."""
        return max(self.api_check_interval * 2 // 5, 100)

    @property
    def reachability_check_interval(self) -> int:
        """HAProxy checks whether an API server accepts connections at all.

        Together with the watchdog's interval it is shorter than the master-down interval, so that both load balancers
        have noticed that all servers are down before the VIP would move because of it.
        """
        return self.api_check_interval // 2

    @property
    def unreached_check_interval(self) -> int:
        """The interval after such a check has failed: shorter, so that the next ones decide soon."""
        return max(self.reachability_check_interval * 2 // 5, 100)

    @property
    def unreached_checks(self) -> int:
        """How often in a row the watchdog must find an API server unreached, until it gets no new connections.

        The first time is after HAProxy's first failed check. HAProxy then begins a second one, which gets an interval
        of the watchdog: longer than a handshake takes on a network.
        """
        return ceil(self.unreached_check_interval / self.watchdog_interval) + 2

    @property
    def unreached_checks_to_close(self) -> int:
        """The same until its sessions are closed.

        One more than HAProxy tries to connect: it has given up the last connection that it began, and tries another
        server for it.
        """
        return self.unreached_checks + ceil(self.api_connect_timeout / self.watchdog_interval) + 1

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
    # Live migration and oversubscribed hypervisors pause a guest for a second or two, and a needless move of the VIP
    # cuts every connection, so this profile waits longer than that. It advertises as often as `default`: after a change
    # of the profile a standby waits by its own timers until it has received an advertisement, so no profile may wait
    # for less than another one's interval.
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
    # Dedicated hardware: nothing pauses a host for a fifth of a second.
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
