#!/bin/bash
# create-databases.sh ROOT: the services' databases with their schema, which is the same for every lab. Creating them
# takes longer than anything else that a first start does. Accounts and contents come then (lab-init).
set -euo pipefail
root=$1

chroot "$root" bash -euo pipefail <<'END'
socket=/run/mysqld/mysqld.sock
install -d -o mysql /run/mysqld
# Without grant tables every user may connect: there are no accounts yet, and nobody else reaches the socket.
mariadbd --user=mysql --skip-networking --skip-grant-tables --skip-log-bin &
trap 'kill %1 && wait' EXIT
mariadb-admin --wait=60 ping

as() { # USER DATABASE COMMAND...
  echo "+ ${*:3}"
  local connection="mysql+pymysql://root@localhost/$2?charset=utf8&unix_socket=$socket"
  # oslo.config reads an option of a group from a variable of this name.
  runuser -u "$1" -- env OS_DATABASE__CONNECTION="$connection" OS_API_DATABASE__CONNECTION="$connection" \
    OS_PLACEMENT_DATABASE__CONNECTION="$connection" "${@:3}"
}
for name in keystone glance placement nova nova_api nova_cell0 neutron; do
  mariadb -e "CREATE DATABASE $name CHARACTER SET utf8 COLLATE utf8_general_ci"
done
as keystone keystone keystone-manage db_sync
as glance glance glance-manage db_sync
as placement placement placement-manage db sync
as nova nova_api nova-manage api_db sync
as nova nova_cell0 nova-manage db sync --local_cell
as nova nova nova-manage db sync --local_cell
as neutron neutron neutron-db-manage upgrade heads
END
rm -rf "$root/run/mysqld"
