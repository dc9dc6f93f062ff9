#!/bin/sh
# Becomes process 1 of a machine: systemd, in namespaces that were made for it, on ROOT and nothing else.
#
#   init.sh ROOT NOTIFY PROGRAM...
#
# NOTIFY: the socket that systemd tells when it is up. PROGRAM: what is executed in the end. Says its process id, as seen
# from outside.
set -eu
root=$1 notify=$2
shift 2
read -r pid _ </proc/self/stat
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
# What concerns the kernel is not the machine's: neither its parameters nor, above all, its reboot key.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
for path in sysrq-trigger kcore kmsg; do
    if [ -e "proc/$path" ]; then mount --bind /dev/null "proc/$path"; fi
done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
# Each start has a name of its own.
cat /proc/sys/kernel/random/uuid >run/boot-id
mount --bind run/boot-id proc/sys/kernel/random/boot_id
touch run/up
mount --bind "$notify" run/up
echo "$pid"
pivot_root . .
umount -l .
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=test NOTIFY_SOCKET=/run/up "$@"
