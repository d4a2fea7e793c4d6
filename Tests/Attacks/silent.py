# SPDX-License-Identifier: Apache-2.0
"""A file system of mallory's own making (FUSE), whose files never come: whoever reads one can't even be killed until
its server ends. Root mounts it for her here, as fusermount does for any user."""

import ctypes
import os
import struct

import stage

libc = ctypes.CDLL(None, use_errno=True)
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 17, 26, 36, 42


def attributes(node):
    # Where it is mounted over a file, nothing asks for this.
    mode, size = (0o040755, 0) if node == 1 else (0o100644, 1 << 20)
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, stage.MALLORY, stage.MALLORY, 0, 4096, 0)


def answer(operation, node):
    """What the kernel is told; None: nothing, ever."""
    if operation == INIT:
        return struct.pack("<4I2H2I2HI7I", 7, 31, 0, 0, 8, 4, 4096, 1, 1, 0, 0, *[0] * 7)
    if operation == LOOKUP:
        return struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
    if operation == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node)
    if operation == OPEN:
        return struct.pack("<Q2I", 0, 0, 0)
    if operation == STATFS:
        return struct.pack("<5Q4I", 1, 1, 1, 1, 1, 4096, 255, 4096, 0) + bytes(24)
    return None


def mounted(place, answers=True):
    """Mounts it over a directory, or over a file; an actor of mallory's that serves it, or nothing where that can't
    be done. Without `answers`, nothing at all comes, to anybody."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        return None
    mode = 40755 if os.path.isdir(place) else 100644
    options = f"fd={device},rootmode={mode},user_id={stage.MALLORY},group_id={stage.MALLORY}"
    options += "" if answers else ",allow_other"
    if libc.mount(b"silent", place.encode(), b"fuse", 0, options.encode()) != 0:
        os.close(device)
        return None

    def serve(send, receive):
        send("serves")
        while True:
            request = os.read(device, 1 << 17)
            _, operation, unique, node = struct.unpack_from("<IIQQ", request)
            if operation in (FORGET, INTERRUPT, BATCH_FORGET, READ) or not answers and operation != INIT:
                continue
            body = answer(operation, node)
            error = 0 if body is not None else -38
            os.write(device, struct.pack("<IiQ", 16 + len(body or b""), error, unique) + (body or b""))

    actor = stage.Actor(stage.MALLORY, serve)
    os.close(device)
    actor.receive(10)
    return actor
