"""Ports that the program itself uses."""

API_PORT = 6443
SSH_PORT = 22
HEALTH_PORT = 8404
"""Where each load balancer's HAProxy answers health checks with the name of its host."""
FLANNEL_PORT = 8472
"""Linux's own port of VXLAN, which flannel uses, over UDP."""
NODE_PORTS = (30000, 32767)
"""kube-apiserver, --service-node-port-range."""
METRICS_PORT = 8405
"""Where each load balancer's HAProxy answers Prometheus."""
EXCHANGE_PORT = 8406
"""Where the load balancers tell each other, over UDP, which clients hold a connection."""
TUNNEL_PORT = 8407
"""Of the tunnel through which they pass connections on while the VIP moves on purpose, over UDP."""
EXPORTER_PORT = 9100
"""Where each load balancer's node exporter answers Prometheus."""
LOCAL_PORTS = (32768, 60999)
"""From which Linux takes one for each connection to a server (net.ipv4.ip_local_port_range)."""
