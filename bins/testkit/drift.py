#!/usr/bin/env python3
"""Disturbs a tree in every way a machine drifts, told by nothing but the Python standard library.

    drift.py ROOT [--seed N] [--spare REGEX]... [KIND]...      without a KIND, every kind there is

Prints a line for each thing done: KIND PATH. What matches a REGEX (anchored at the start, / is ROOT itself) and what is
below it is not touched. The same seed disturbs the same tree in the same way.
"""

import argparse
import os
import random
import re
import shutil
import stat
import sys


class Tree:
    def __init__(self, root, spared, seed):
        self.root = os.path.abspath(root)
        self.random = random.Random(seed)
        self.spared = [re.compile("(?:%s)" % line) for line in spared + ["/\\.subd(/|$)"]]
        self.files, self.directories, self.symlinks, self.linked = [], [], [], []
        self.walk("")
        self.used = set()

    def walk(self, directory):
        self.directories.append(directory)
        for name in sorted(os.listdir(self.root + (directory or "/"))):
            path = directory + "/" + name
            if any(line.match(path) for line in self.spared):
                continue
            info = os.lstat(self.root + path)
            if stat.S_ISDIR(info.st_mode):
                if not os.path.ismount(self.root + path):
                    self.walk(path)
            elif stat.S_ISLNK(info.st_mode):
                self.symlinks.append(path)
            elif stat.S_ISREG(info.st_mode):
                (self.files if info.st_nlink == 1 else self.linked).append(path)

    def free(self, path):
        """No kind of drift may undo another, so that each is there to be found."""
        return not any(path == used or path.startswith(used + "/") or used.startswith(path + "/") for used in self.used)

    def pick(self, paths, accept=lambda path: True):
        candidates = [path for path in paths if self.free(path) and accept(self.root + path)]
        if not candidates:
            sys.exit("drift.py: nothing left to disturb in this way")
        path = self.random.choice(candidates)
        self.used.add(path)
        return path

    def place(self, name):
        """Where something new goes: its directory may hold other drift."""
        directory = self.random.choice([d for d in self.directories if not any(d == u or d.startswith(u + "/") for u in self.used)])
        path = "%s/%s-%d" % (directory, name, self.random.randrange(1 << 30))
        self.used.add(path)
        return path


def size(path):
    return os.lstat(path).st_size


def edit(tree):
    path = tree.pick(tree.files)
    with open(tree.root + path, "ab") as file:
        file.write(b"drift\n")
    return path


def edit_unseen(tree):
    path = tree.pick(tree.files, size)
    info = os.lstat(tree.root + path)
    with open(tree.root + path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    os.utime(tree.root + path, ns=(info.st_atime_ns, info.st_mtime_ns))
    return path


def chmod(tree):
    path = tree.pick(tree.files)
    os.chmod(tree.root + path, stat.S_IMODE(os.lstat(tree.root + path).st_mode) ^ 0o021)
    return path


def chmod_directory(tree):
    # Only the directory itself drifts; what is in it may drift, too.
    path = tree.random.choice([d for d in tree.directories if d and d not in tree.used])
    os.chmod(tree.root + path, stat.S_IMODE(os.lstat(tree.root + path).st_mode) ^ 0o001)
    return path


def chown(tree):
    path = tree.pick(tree.files)
    os.chown(tree.root + path, 12345, 54321)
    return path


def touch(tree):
    path = tree.pick(tree.files)
    os.utime(tree.root + path, ns=(1, 987654321123456789))
    return path


def delete(tree):
    path = tree.pick(tree.files)
    os.unlink(tree.root + path)
    return path


def delete_directory(tree):
    path = tree.pick([d for d in tree.directories if d.count("/") > 1])
    shutil.rmtree(tree.root + path)
    return path


def add_file(tree):
    path = tree.place("added-file")
    with open(tree.root + path, "wb") as file:
        file.write(b"nobody asked for this\n")
    return path


def add_directory(tree):
    path = tree.place("added-directory")
    os.makedirs(tree.root + path + "/with/more")
    return path


def add_symlink(tree):
    path = tree.place("added-symlink")
    os.symlink("/etc/passwd", tree.root + path)
    return path


def add_fifo(tree):
    path = tree.place("added-fifo")
    os.mkfifo(tree.root + path)
    return path


def add_device(tree):
    path = tree.place("added-device")
    os.mknod(tree.root + path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


def file_to_directory(tree):
    path = tree.pick(tree.files)
    os.unlink(tree.root + path)
    os.mkdir(tree.root + path)
    with open(tree.root + path + "/inside", "wb") as file:
        file.write(b"x")
    return path


def file_to_symlink(tree):
    path = tree.pick(tree.files)
    os.unlink(tree.root + path)
    os.symlink("/nowhere", tree.root + path)
    return path


def directory_to_file(tree):
    path = tree.pick([d for d in tree.directories if d.count("/") > 1])
    shutil.rmtree(tree.root + path)
    with open(tree.root + path, "wb") as file:
        file.write(b"was a directory\n")
    return path


def symlink_elsewhere(tree):
    path = tree.pick(tree.symlinks)
    os.unlink(tree.root + path)
    os.symlink("/elsewhere", tree.root + path)
    return path


def break_link(tree):
    path = tree.pick(tree.linked)
    shutil.copy2(tree.root + path, tree.root + path + ".drift")
    os.rename(tree.root + path + ".drift", tree.root + path)
    return path


def make_link(tree):
    one, other = tree.pick(tree.files), tree.pick(tree.files)
    os.unlink(tree.root + other)
    os.link(tree.root + one, tree.root + other)
    return other


def add_xattr(tree):
    path = tree.pick(tree.files)
    os.setxattr(tree.root + path, "user.drift", b"1")
    return path


def drop_xattr(tree):
    def noted(path):
        return any(name.startswith(("user.", "security.capability")) for name in os.listxattr(path))
    path = tree.pick(tree.files, noted)
    for name in os.listxattr(tree.root + path):
        if name.startswith(("user.", "security.capability")):
            os.removexattr(tree.root + path, name)
    return path


# What removes most comes first, so that there is something left for it to remove.
KINDS = [
    delete_directory, directory_to_file, drop_xattr, edit, edit_unseen, chmod, chown, touch, delete, file_to_directory,
    file_to_symlink, symlink_elsewhere, break_link, make_link, add_xattr, chmod_directory, add_file, add_directory,
    add_symlink, add_fifo, add_device,
]
NAMES = {kind.__name__.replace("_", "-"): kind for kind in KINDS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spare", action="append", default=[])
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    options = parser.parse_args()
    unknown = set(options.kinds) - set(NAMES)
    if unknown:
        parser.error("there are these kinds: %s" % ", ".join(NAMES))
    tree = Tree(options.root, options.spare, options.seed)
    for name in options.kinds or NAMES:
        print(name, NAMES[name](tree))


main()
