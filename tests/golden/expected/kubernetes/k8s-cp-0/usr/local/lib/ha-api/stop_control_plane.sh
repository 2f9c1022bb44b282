#!/bin/bash
# Ends this host's part of the control plane while the host shuts down, in an order in which no request fails: the API server
# reports that it is not ready, and keeps serving until the load balancers have noticed and its requests are answered;
# meanwhile another etcd member becomes the leader; etcd, which this API server needs to the end, stops last.

# stop CONTAINER SECONDS: SIGTERM, and SIGKILL if it has not ended after so long.
stop() {
    local id
    for id in $(crictl ps --quiet --state running --name "^$1\$"); do
        crictl --timeout "$(($2 + 5))s" stop --timeout "$2" "$id"
    done
}

# 5 s unready, requests and watches that end within 10 s after that, and some for a slow host.
stop kube-apiserver 20 &
/usr/local/lib/ha-api/etcd.py yield
wait
# Its database is on disk after each write; all it has to do is close the connections to its peers.
stop etcd 10
