#!/bin/sh
# Source: the liveness probes of openshift/machine-config-operator, templates/common/on-prem/files/keepalived.yaml and
# templates/master/00-master/on-prem/files/haproxy.yaml, with Kubernetes' defaults: every 10 s, a timeout of 1 s,
# restarted after 3 failures in a row. HAProxy must answer HTTP; keepalived must report its state on SIGUSR1, and the
# state must not be FAULT. Adapted: a loop instead of the kubelet; it kills at once, while the kubelet waits up to 30 s
# for the container to end.
data=/tmp/keepalived.data
haproxy_lives() {
    curl --silent --fail --max-time 1 --output /dev/null http://localhost:9444/haproxy_ready
}
keepalived_lives() {
    echo "State = FAULT" >"$data"
    kill -s USR1 "$(pgrep -o -x keepalived)" 2>/dev/null || return 1
    for _ in 1 2 3 4 5; do
        sleep 0.2
        grep -q "State = FAULT" "$data" || return 0
    done
    return 1
}
haproxy=0 keepalived=0
while sleep 10; do
    if haproxy_lives; then haproxy=0; else haproxy=$((haproxy + 1)); fi
    if [ "$haproxy" -ge 3 ]; then haproxy=0 && killall --quiet --signal KILL haproxy; fi
    if keepalived_lives; then keepalived=0; else keepalived=$((keepalived + 1)); fi
    if [ "$keepalived" -ge 3 ]; then keepalived=0 && killall --quiet --signal KILL keepalived; fi
done
