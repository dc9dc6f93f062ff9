#!/usr/bin/env python3
"""What a tree is, told by nothing but the Python standard library: the judge of the scanner, sharing no code with it.

    oracle.py ROOT [--exclude REGEX]...           one JSON line a path, in order of the bytes of the paths
    oracle.py --diff A B [--exclude REGEX]...     the paths that differ between two trees; exit 1 if there are any

REGEX is anchored at the start of the path (/ is ROOT itself); a directory that matches hides what is in it. Sockets and
/.subd at the top are left out, and so is what lies on other file-systems. Names that are no UTF-8, control characters
and backslashes are shown as \\xNN, as the scanner shows them.
"""

import argparse
import hashlib
import json
import os
import re
import stat
import sys

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "fifo",
}
WITH_TIME = ("file", "block device", "character device", "fifo")
XATTRS = re.compile(rb"security\.(capability|selinux)$|system\.posix_acl_(access|default)$|user\.")


def shown(raw):
    """Bytes as text in which two names never look alike."""
    out = []
    for char in raw.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            out.append("\\x%02x" % (code - 0xDC00))
        elif code < 32 or 127 <= code < 160 or char == "\\":
            out.extend("\\x%02x" % byte for byte in char.encode())
        else:
            out.append(char)
    return "".join(out)


def digest(fd):
    sha = hashlib.sha256()
    while True:
        block = os.read(fd, 1 << 20)
        if not block:
            return sha.hexdigest()
        sha.update(block)


def xattrs(path):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    kept = [name for name in names if XATTRS.match(os.fsencode(name))]
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(kept)}


def record(name, fd, found):
    """One entry; `fd` is the directory it is in."""
    kind = KINDS[stat.S_IFMT(found.st_mode)]
    entry = {
        "type": kind,
        "mode": "%04o" % stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "xattrs": xattrs(b"/proc/self/fd/%d/%s" % (fd, name)),
    }
    if kind in WITH_TIME:
        entry["mtime_ns"] = found.st_mtime_ns
    if kind == "file":
        try:
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
        except OSError as error:
            return {"type": "unknown", "error": error.strerror}
        try:
            entry["size"] = found.st_size
            entry["sha256"] = digest(opened)
        finally:
            os.close(opened)
    elif kind == "symlink":
        entry["target"] = shown(os.readlink(name, dir_fd=fd))
    elif kind.endswith("device"):
        entry["rdev"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    return entry


def open_below(top, path):
    """The directory at `path`, which may be longer than the kernel takes at once."""
    fd = os.dup(top)
    while path:
        cut = len(path) if len(path) < 4000 else path.rindex(b"/", 0, 4000)
        step, path = path[:cut].lstrip(b"/"), path[cut:]
        below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def walk(root, excludes):
    """Path (bytes) to entry. Explicit stack: trees are deeper than Python's."""
    entries, links = {}, {}
    patterns = [re.compile(os.fsencode(text), re.DOTALL) for text in excludes]
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    dev = os.fstat(top).st_dev
    entries[b"/"] = record(b".", top, os.fstat(top))
    stack = [b""]
    while stack:
        path = stack.pop()
        try:
            fd = open_below(top, path)
        except OSError as error:
            entries[path] = {"type": "unknown", "error": error.strerror}
            continue
        for name in sorted(os.listdir(b"/proc/self/fd/%d" % fd)):
            below = path + b"/" + name
            if below == b"/.subd" or any(pattern.match(below) for pattern in patterns):
                continue
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISSOCK(found.st_mode):
                continue
            entries[below] = record(name, fd, found)
            if stat.S_ISDIR(found.st_mode) and found.st_dev == dev:
                stack.append(below)
            elif not stat.S_ISDIR(found.st_mode) and found.st_nlink > 1:
                links.setdefault((found.st_dev, found.st_ino), []).append(below)
        os.close(fd)
    for names in links.values():
        if len(names) > 1:
            for name in names:
                entries[name]["links"] = [shown(other) for other in sorted(names)]
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", metavar="ROOT")
    parser.add_argument("--exclude", action="append", default=[], metavar="REGEX")
    parser.add_argument("--diff", action="store_true")
    args = parser.parse_args()
    if len(args.roots) != (2 if args.diff else 1):
        parser.error("one ROOT, or two with --diff")
    trees = [walk(os.fsencode(root), args.exclude) for root in args.roots]
    if not args.diff:
        for path, entry in sorted(trees[0].items()):
            print(json.dumps({"path": shown(path), **entry}, sort_keys=True))
        return 0
    one, other = trees
    differing = [path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]
    for path in differing:
        print("%s\t%s\t%s" % (shown(path), json.dumps(one.get(path)), json.dumps(other.get(path))))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
