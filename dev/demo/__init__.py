"""From nothing to a highly available endpoint on the lab, and its failover measured: what ``make demo`` runs."""
