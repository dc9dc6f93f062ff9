#!/bin/sh
# Makes a Debian bookworm root of more than 30,000 files in DIR: device nodes, set-uid files, hard links, file capabilities.
#
#   debian-root.sh [DIR [--upgrade]]
#
# Without DIR it only sees to the archive that is kept (below). With --upgrade about a tenth of the files differ from those
# without: other versions of a few packages are played by rewriting what they own. The root without it is kept as a tar
# archive in $DOMINATOR_DEBIAN_CACHE (default /var/cache/dominator-testkit), so that a second run takes seconds. Needs root
# and mmdebstrap.
set -eu

cache=${DOMINATOR_DEBIAN_CACHE:-/var/cache/dominator-testkit}
mirror=${DOMINATOR_DEBIAN_MIRROR:-}
archive=$cache/bookworm.tar
packages=python3,gcc,g++,git,perl,vim,locales,linux-image-amd64,openssh-server,build-essential,python3-numpy,cmake,iputils-ping

make_archive() {
    # Nothing a machine writes for itself belongs to an image; proc and sys are only mounted while packages are set up.
    rm -rf "$cache/root"
    mmdebstrap --mode=root --variant=standard --format=directory --include="$packages" \
        --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/tmp/*' \
        bookworm "$cache/root" $mirror
    tar --create --file "$archive.new" --directory "$cache/root" --numeric-owner --xattrs --xattrs-include='*' --format=pax .
    rm -rf "$cache/root"
    mv "$archive.new" "$archive"
}

upgrade() {
    # Every tenth regular file gets other contents, some get other metadata, some go, some come.
    find "$1/usr" -type f -links 1 -size -200k | LC_ALL=C sort | awk 'NR % 10 == 0' | while IFS= read -r file; do
        printf '\nupgraded\n' >>"$file"
    done
    find "$1/usr/share/doc" -name copyright | LC_ALL=C sort | awk 'NR % 7 == 0' | while IFS= read -r file; do
        rm "$file"
    done
    mkdir "$1/usr/share/upgrade"
    for number in $(seq 200); do
        echo "$number" >"$1/usr/share/upgrade/file$number"
    done
    chmod 700 "$1/usr/share/upgrade"
}

mkdir -p "$cache"
exec 9>"$cache/bookworm.lock"
flock 9
[ -f "$archive" ] || make_archive
exec 9>&-
directory=${1:-}
[ -n "$directory" ] || exit 0
mkdir -p "$directory"
tar --extract --file "$archive" --directory "$directory" --numeric-owner --same-permissions --xattrs --xattrs-include='*'
if [ "${2:-}" = --upgrade ]; then
    upgrade "$directory"
fi
