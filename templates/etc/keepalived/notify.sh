#!/bin/sh
# Called by keepalived at every change of state: INSTANCE VI_1 STATE PRIORITY. The reason stands in keepalived's own log,
# just before; this adds one line to look for (`journalctl -t vrrp`), and a file for programs.
logger --tag vrrp --priority daemon.notice "$2 is now $3 with priority $4"
printf '%s %s\n' "$3" "$(date +%s)" >/run/ha-api/vrrp_state.new && mv /run/ha-api/vrrp_state.new /run/ha-api/vrrp_state
