#!/bin/sh
# Source: openshift/machine-config-operator, templates/master/00-master/on-prem/files/keepalived-script.yaml: does the
# local HAProxy answer, and does its monitor reach an API server? Adapted: the path of the monitor's marker file.
curl --silent --fail --output /dev/null http://localhost:9444/haproxy_ready && [ -e /run/openshift/api-reachable ]
