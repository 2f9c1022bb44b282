#!/bin/sh
# keepalived calls this at every change of state: INSTANCE VI_1 STATE PRIORITY. The reason is in keepalived's own log, just
# before; this adds one line to search for (`journalctl -t vrrp`), and a file for programs.
# The line comes last and without the lock: programs act on the file, and the journal may be slow.
trap 'exec 9>&-; logger --tag vrrp --priority daemon.notice "$2 is now $3 with priority $4"' EXIT
cd /run/ha-api || exit
# keepalived does not wait for one call to end before the next: FAULT and BACKUP at its start are a millisecond apart, and
# the first may finish last. Of two calls within seconds, the later one has the higher process id.
exec 9>vrrp_state.lock
flock 9
# How often each state was entered, for metrics: this counts changes between two scrapes, too.
{ read -r count <"transitions_to_$3"; } 2>/dev/null || count=0
echo $((count + 1)) >transitions.new && mv transitions.new "transitions_to_$3"
now=$(date +%s)
{ read -r pid at <vrrp_state.last; } 2>/dev/null || { pid=0 at=0; }
[ $((now - at)) -ge 5 ] || [ "$pid" -lt $$ ] || [ $((pid - $$)) -ge 1000 ] || exit 0
echo "$$ $now" >vrrp_state.last
echo "$3 $now" >vrrp_state.new && mv vrrp_state.new vrrp_state
