#!/bin/bash
# customize.sh ROOT: what is done once to the cloud's root file system, after its packages are installed.
set -euo pipefail
root=$1

openstack_units=(keystone glance-api placement-api nova-api nova-api-metadata nova-conductor nova-scheduler nova-compute
  neutron-api neutron-ovn-metadata-agent openvswitch-switch ovn-central ovn-host)
unwanted_units=(neutron-rpc-server ovs-record-hostname lxc lxc-net lxc-monitord libvirt-guests haproxy open-iscsi iscsid
  e2scrub_reap e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer fstrim.timer logrotate.timer man-db.timer dpkg-db-backup.timer)

chroot "$root" systemctl --quiet enable mariadb rabbitmq-server memcached libvirtd nginx docker-registry \
  "${openstack_units[@]}"
for unit in "${unwanted_units[@]}"; do
  chroot "$root" systemctl --quiet disable "$unit" 2>/dev/null || true # not every one of them is installed
done

# libvirt-lxc would register its guests with machined, which does not find them inside nspawn ("NoMachineForPID").
chroot "$root" systemctl --quiet mask systemd-machined
rm -f "$root/usr/share/dbus-1/system-services/org.freedesktop.machine1.service"

# libvirt's own NAT network is not used; the hypervisor's interfaces are Neutron's.
rm -f "$root/etc/libvirt/qemu/networks/autostart/default.xml"

wrap() { # WRAPPER PROGRAM
  chroot "$root" dpkg-divert --quiet --local --rename --divert "$2.real" --add "$2"
  ln -s "/usr/local/sbin/$1" "$root$2"
}
wrap lab-qemu /usr/bin/qemu-system-x86_64
wrap lab-lxc /usr/lib/libvirt/libvirt_lxc
wrap lab-haproxy /usr/sbin/haproxy

# Open vSwitch and OVN run from a root file system of their own, with a newer Debian (ovn-packages).
for unit in ovsdb-server ovs-vswitchd ovn-controller ovn-northd ovn-ovsdb-server-nb ovn-ovsdb-server-sb; do
  install -D -m 0644 /dev/stdin "$root/etc/systemd/system/$unit.service.d/root.conf" <<'END'
[Service]
RootDirectory=/opt/ovn
MountAPIVFS=yes
BindPaths=/run /dev -/etc/openvswitch -/var/lib/openvswitch -/var/log/openvswitch -/var/lib/ovn -/var/log/ovn
BindReadOnlyPaths=/etc/hostname /etc/hosts
END
done

# Nova's plug-in for Open vSwitch would otherwise reset br-int to the kernel's datapath at each plug.
sed -i "s/^OVS_DATAPATH_SYSTEM = .*/OVS_DATAPATH_SYSTEM = 'netdev'/" \
  "$root/usr/lib/python3/dist-packages/vif_plug_ovs/constants.py"

# The lab writes these when it starts.
rm -f "$root/etc/resolv.conf" "$root/etc/machine-id"
touch "$root/etc/machine-id"
