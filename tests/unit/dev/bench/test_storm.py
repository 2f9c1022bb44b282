from dev.bench.storm import Storm, measurements


def storm(slowest: float, **changes: float) -> Storm:
    values = {"idle_mib": 24.6, "busy_mib": 55.5} | changes
    return Storm(
        at_one_api_server=(0.06, 0.05), at_vip=(0.1, slowest, None), after_death=(1.164, 0.9), moved=False, **values
    )  # fmt: skip


def test_what_counts_is_the_last_answer_and_the_memory_of_the_largest_storm():
    found = measurements({1000: storm(0.25), 5000: storm(1.2, busy_mib=99.9)})
    small, large = found.arrivals
    assert (small.connections, small.at_vip, small.after_death, small.at_one_api_server) == (1000, 0.25, 1.16, 0.06)
    assert (large.connections, large.at_vip, large.unanswered, large.moved) == (5000, 1.2, 1, False)
    assert (found.idle_mib, found.busy_mib) == (25, 100)
