#!/bin/sh
# Prints the path of an archive of a small Debian bookworm that boots: systemd, dbus, nginx, cron and two versions of the
# kernel package with their initial file-systems.
#
# It is made once, with mmdebstrap and a mirror, and kept in $DOMINATOR_DEBIAN_CACHE (default
# /var/cache/dominator-testkit). Its name has the sum of this script, so that another script makes another archive.
set -eu

if [ "${1:-}" = --customize ]; then
    root=$2
    # The initial file-system loads what is named here; guessing would take all there is.
    echo MODULES=list >"$root/etc/initramfs-tools/conf.d/machine"
    printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >>"$root/etc/initramfs-tools/modules"
    kernels=$(chroot "$root" apt-cache search --names-only '^linux-image-6[.]1[.].*-cloud-amd64$' | cut -d ' ' -f 1 | sort -V | tail -n 2)
    chroot "$root" apt-get install -y -q --no-install-recommends $kernels
    systemctl --root="$root" enable systemd-networkd
    # Nobody waits for a network that is not there, and nothing runs because it is a certain time of day.
    systemctl --root="$root" mask systemd-networkd-wait-online.service console-getty.service serial-getty@ttyS0.service \
        getty@tty1.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
        fstrim.timer systemd-hwdb-update.service
    echo machine >"$root/etc/hostname"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/tmp/* "$root/etc/machine-id"
    find "$root/var/log" -type f -delete
    : >"$root/etc/machine-id"
    exit
fi

cache=${DOMINATOR_DEBIAN_CACHE:-/var/cache/dominator-testkit}
mirror=${DOMINATOR_DEBIAN_MIRROR:-}
archive=$cache/machine-$(sha256sum "$0" | cut -c 1-12).tar
packages=systemd,systemd-sysv,udev,dbus,nginx-light,cron,kmod,initramfs-tools,iproute2
root=$cache/machine-root

mkdir -p "$cache"
exec 9>"$cache/machine.lock"
flock 9
if [ ! -f "$archive" ]; then
    rm -rf "$root" "$cache"/machine-*.tar
    # What only people read is left out.
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook="$(realpath "$0") --customize \"\$1\"" bookworm "$root" $mirror >&2
    tar --create --file "$archive.new" --directory "$root" --numeric-owner --xattrs --xattrs-include='*' --format=pax .
    rm -rf "$root"
    mv "$archive.new" "$archive"
fi
echo "$archive"
