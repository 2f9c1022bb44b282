#!/bin/sh
# Source: openstack/kolla-ansible, role loadbalancer, templates/keepalived/check_alive_haproxy.sh.j2: does socat get
# through to the local HAProxy's socket? socat gives up waiting half a second after the question and calls that a
# success, so a HAProxy that hangs passes, as it does there. Adapted: the socket's place.
echo "show info" | exec socat UNIX-CONNECT:/run/kolla/haproxy.sock STDIO >/dev/null
