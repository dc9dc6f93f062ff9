#!/bin/sh
# Holds a disk mounted, in a mount namespace of its own, until whoever started it goes away.
#
#   disk.sh DISK PLACE
#
# DISK: an ext4 image, mounted on PLACE. What its journal holds is carried out, as by whoever mounts it. Says "mounted".
set -eu
mount --make-rprivate /
mount -o loop "$1" "$2"
echo mounted
cat >/dev/null
umount "$2"
