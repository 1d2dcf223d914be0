#!/usr/bin/env python3
"""A disk with a volatile write cache, for a loop device: at a power cut, any part of what was
written since the last flush is lost, in any order, in units of UNIT bytes.

    lossy_disk.py DIRECTORY IMAGE CONTROL ANSWER SEED UNIT

It mounts a FUSE file system on DIRECTORY that holds one file, `image`, with the content of IMAGE.
Commands are read from the FIFO CONTROL, a line each, and answered through the FIFO ANSWER:

    cut       decides what the disk holds if the power is cut now, and remembers that
    restore   the disk holds that from now on; nothing may have the file open
    quit      ends, unmounted

`power_cut.sh` beside this file drives it. It speaks the protocol of
https://www.kernel.org/doc/html/latest/filesystems/fuse/fuse.html as include/uapi/linux/fuse.h has
it, needs root, and nothing but Python. A loop device turns a flush of its own into an fsync of
this file (lo_req_flush in drivers/block/loop.c), which is the only thing that makes writes
durable here.
"""

import errno
import os
import random
import select
import stat
import struct
import subprocess
import sys

SECTOR = 512
ROOT, FILE = 1, 2
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE = 1, 2, 3, 4, 14, 15, 16
RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR = 18, 20, 25, 26, 27, 28, 29
INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
WRITE_MAX = 1 << 20


class Disk:
    """The bytes: those that reads see, and those that a power cut leaves for certain."""

    def __init__(self, content, seed, unit):
        self.unit = unit
        self.seen = bytearray(content)
        self.durable = bytearray(content)
        self.pending = []
        # What the power cut leaves of `pending`, once it is decided.
        self.kept = None
        self.random = random.Random(seed)

    def write(self, at, data):
        self.seen[at : at + len(data)] = data
        self.pending.append((at, bytes(data)))

    def flush(self):
        if self.kept is not None:
            return
        for at, data in self.pending:
            self.durable[at : at + len(data)] = data
        self.pending.clear()

    def cut(self):
        """Decides what the disk holds if the power is cut now: some of what was not flushed."""
        self.kept = []
        lost = 0
        mode = self.random.choice(["none", "first", "writes", "units", "units", "all"])
        share = self.random.random()
        first = self.random.randrange(len(self.pending) + 1)
        for number, (at, data) in enumerate(self.pending):
            whole = self.random.random() < share
            for part in range(0, len(data), self.unit):
                keep = {
                    "none": False,
                    "first": number < first,
                    "writes": whole,
                    "units": self.random.random() < share,
                    "all": True,
                }[mode]
                if keep:
                    self.kept.append((at + part, data[part : part + self.unit]))
                else:
                    lost += 1
        return f"{mode} {len(self.kept)} {lost}"

    def restore(self):
        if self.kept is None:
            self.cut()
        for at, data in self.kept:
            self.durable[at : at + len(data)] = data
        for at, data in self.pending:
            self.seen[at : at + len(data)] = self.durable[at : at + len(data)]
        self.pending.clear()
        self.kept = None
        return "restored"


class Server:
    """Answers the kernel, one request after the other."""

    def __init__(self, disk, fuse):
        self.disk = disk
        self.fuse = fuse

    def attributes(self, node):
        directory = node == ROOT
        size = 0 if directory else len(self.disk.seen)
        mode = stat.S_IFDIR | 0o755 if directory else stat.S_IFREG | 0o600
        times = (0, 0, 0, 0, 0, 0)
        return struct.pack(
            "<QQQQQQIIIIIIIIII", node, size, size // SECTOR, *times, mode, 1, 0, 0, 0, 4096, 0
        )

    def answer(self, request):
        opcode, unique, node = struct.unpack_from("<IQQ", request, 4)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        error, body = self.body(opcode, node, memoryview(request)[40:])
        head = struct.pack("<IiQ", 16 + len(body), -error, unique)
        os.writev(self.fuse, [head, body])

    def body(self, opcode, node, argument):
        if opcode == WRITE:
            _, at, size = struct.unpack_from("<QQI", argument)
            if at + size > len(self.disk.seen):
                return errno.ENOSPC, b""
            self.disk.write(at, argument[40 : 40 + size])
            return 0, struct.pack("<II", size, 0)
        if opcode == READ:
            _, at, size = struct.unpack_from("<QQI", argument)
            return 0, bytes(self.disk.seen[at : at + size])
        if opcode == FSYNC:
            self.disk.flush()
            return 0, b""
        if opcode == INIT:
            _, minor = struct.unpack_from("<II", argument)
            pages = WRITE_MAX // 4096
            flags = BIG_WRITES | MAX_PAGES
            reply = (7, min(minor, 31), WRITE_MAX, flags, 12, 10, WRITE_MAX, 1, pages, 0)
            return 0, struct.pack("<IIIIHHIIHH", *reply) + bytes(32)
        if opcode == LOOKUP:
            if bytes(argument).rstrip(b"\0") != b"image":
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", FILE, 1, 3600, 3600, 0, 0) + self.attributes(FILE)
        if opcode in (GETATTR, SETATTR):
            return 0, struct.pack("<QII", 3600, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 0, 0, 0)
        if opcode in (FLUSH, RELEASE, RELEASEDIR, READDIR, DESTROY):
            return 0, b""
        return errno.ENOSYS, b""


def main():
    directory, image, control, answer, seed, unit = sys.argv[1:]
    with open(image, "rb") as file:
        disk = Disk(file.read(), int(seed), int(unit))
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
    mount = ["mount", "-i", "-t", "fuse", "-o", options, "lossy_disk", directory]
    # The kernel asks for its first answer after the mount has returned.
    subprocess.run(mount, pass_fds=[fuse], check=True)
    server = Server(disk, fuse)
    # Opened for both, the FIFO never ends when a writer goes.
    commands = os.open(control, os.O_RDWR)
    with open(answer, "w", buffering=1, encoding="ascii") as answers:
        print("mounted", file=answers)
        while True:
            ready, _, _ = select.select([fuse, commands], [], [])
            if fuse in ready:
                try:
                    server.answer(os.read(fuse, WRITE_MAX + 4096))
                except OSError as error:
                    # ENODEV is the end of the mount; ENOENT is a request that was withdrawn.
                    if error.errno == errno.ENODEV:
                        return
                    if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                        raise
            if commands in ready:
                command = os.read(commands, 100).decode().strip()
                if command == "quit":
                    return
                print({"cut": disk.cut, "restore": disk.restore}[command](), file=answers)


main()
