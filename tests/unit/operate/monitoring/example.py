"""A stack that is monitored."""

from model.timers import PROFILES, Profile
from operate.monitoring.files import Monitored

STACK = Monitored(
    stack="prod",
    vip="198.51.100.200",
    load_balancers={"k8s-lb-0": "198.51.100.11", "k8s-lb-1": "198.51.100.12"},
    api_servers=("k8s-cp-0", "k8s-cp-1", "k8s-cp-2"),
    timers=PROFILES[Profile.DEFAULT],
    frontends=("ingress", "rke2"),
)
