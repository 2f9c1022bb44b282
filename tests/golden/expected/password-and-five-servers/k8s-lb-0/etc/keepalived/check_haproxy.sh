#!/bin/sh
# Is the local HAProxy alive? It must answer HTTP: the kernel accepts connections even for a process that hangs.
# keepalived runs its scripts with the default priority, and HAProxy has a higher one: on busy CPUs curl would be too late, which
# counts as no answer.
renice -n -20 -p $$ >/dev/null 2>&1
# keepalived discards a check's output, so the reason goes to the journal: `journalctl -t check_haproxy`.
reason=$(curl --disable --noproxy '*' --silent --show-error --fail --max-time 0.9 --output /dev/null http://127.0.0.1:8404/healthz 2>&1) && exit 0
logger --tag check_haproxy --priority daemon.warning "HAProxy on this host does not answer: $reason"
exit 1
