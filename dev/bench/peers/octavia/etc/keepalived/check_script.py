#!/usr/bin/python3
"""Does the local HAProxy give any answer on its stats socket?

Source: openstack/octavia, octavia/cmd/haproxy_vrrp_check.py, and keepalived_check_script.conf.j2, which runs it.
Rewritten with the same query and the same timeout, without the two shells around it. Adapted: the path of the socket.
"""

import socket
import sys

with socket.socket(socket.AF_UNIX) as haproxy:
    haproxy.settimeout(5)
    try:
        haproxy.connect("/run/octavia/haproxy.sock")
        haproxy.sendall(b"show stat -1 -1 -1\n")
        answered = bool(haproxy.recv(1024))
    except OSError:
        answered = False
sys.exit(not answered)
