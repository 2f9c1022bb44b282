#!/bin/sh
# Source: openstack/kolla-ansible, role loadbalancer, templates/keepalived/check_alive_haproxy.sh.j2: can socat
# connect to the socket of the local HAProxy? Half a second after its request socat stops waiting and reports success,
# so a HAProxy that hangs passes, as it does there. Adapted: the path of the socket.
echo "show info" | exec socat UNIX-CONNECT:/run/kolla/haproxy.sock STDIO >/dev/null
