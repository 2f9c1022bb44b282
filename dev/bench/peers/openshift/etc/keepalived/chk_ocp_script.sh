#!/bin/sh
# Source: openshift/machine-config-operator, templates/master/00-master/on-prem/files/keepalived-script.yaml: does the
# local HAProxy answer, and does the monitor beside it get through to an API server? Adapted: the place of the
# monitor's mark.
curl --silent --fail --output /dev/null http://localhost:9444/haproxy_ready && [ -e /run/openshift/api-reachable ]
