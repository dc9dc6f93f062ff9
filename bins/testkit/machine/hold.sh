#!/bin/sh
# Holds what a machine keeps from boot to boot: its network and its disk. Runs in a mount and a network namespace of its
# own; when it ends, all of the machine's processes are killed, and the mounts and the loop device go with the namespace.
#
#   hold.sh                              a network; says "ready"
#   hold.sh DISK ROOT CGROUPS TREE       and a disk; says which control group is the machine's
#
# All addresses of 192.0.2.0/24 are in the network. DISK: an ext4 image, mounted on ROOT and filled with TREE. CGROUPS:
# where the unified hierarchy is mounted.
set -eu
mount --make-rprivate /
ip link set lo up
ip address add 192.0.2.0/24 dev lo
if [ $# -eq 0 ]; then
    echo ready
    exec cat >/dev/null
fi
mount -o loop "$1" "$2"
cp --archive "$4/." "$2"
mount -t cgroup2 none "$3"
group=$3/dominator-test-$$
mkdir "$group"
echo "$group"
# Until whoever started it goes away, however that happens.
cat >/dev/null
echo 1 >"$group/cgroup.kill"
while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.02; done
find "$group" -depth -type d -exec rmdir {} \;
