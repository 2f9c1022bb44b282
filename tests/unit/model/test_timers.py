"""Timers that are computed from others."""

from dataclasses import replace

import pytest

from model.timers import PROFILES, Profile

DEFAULT = PROFILES[Profile.DEFAULT]
# Of a custom interval, in milliseconds; the profiles have 50 and 100.
INTERVALS = (10, 50, 100, 200, 230, 300, 500, 1000, 5000, 40_950)


@pytest.mark.parametrize("interval", INTERVALS)
def test_two_healthy_holders_have_time_to_hear_each_other(interval: int):
    """One of them yields at the first advertisement that it receives, of which one may be lost."""
    assert replace(DEFAULT, advertisement_interval=interval).rival_interval > 2 * interval


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("interval", INTERVALS)
def test_a_new_holder_announces_itself_after_an_unheard_one_has_fallen_silent_and_before_it_stops_serving(
    profile: Profile, interval: int
):
    timers = replace(PROFILES[profile], advertisement_interval=interval)
    announced = timers.second_announcement * 1000
    # The watchdog ends the old holder's keepalived at the next advertisement. The VIP is removed when systemd starts it
    # again.
    assert timers.rival_interval + interval <= announced
    assert announced < timers.rival_interval + timers.restart_delay


@pytest.mark.parametrize("profile", Profile)
def test_the_profiles_repeat_the_announcement_after_a_second(profile: Profile):
    assert PROFILES[profile].second_announcement == 1


@pytest.mark.parametrize(("profile", "most"), [(Profile.DEFAULT, 1300), (Profile.FAST, 750), (Profile.STEADY, 6000)])
def test_sessions_of_a_dead_api_server_are_closed_in_time(profile: Profile, most: int):
    timers = PROFILES[profile]
    # It dies just after a check, which HAProxy spreads by 5 %; the watchdog finds out an interval later.
    handshake = timers.reachability_check_interval * 21 // 20 + timers.reachability_check_interval
    assert handshake + timers.unreached_checks_to_close * timers.watchdog_interval < most


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("watchdog_interval", [10, 100, 5000])
def test_sessions_are_closed_only_when_no_connection_to_their_server_can_be_under_way(
    profile: Profile, watchdog_interval: int
):
    timers = replace(PROFILES[profile], watchdog_interval=watchdog_interval)
    waited = timers.unreached_checks_to_close - timers.unreached_checks
    assert waited * watchdog_interval > timers.api_connect_timeout
