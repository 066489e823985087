# SPDX-License-Identifier: Apache-2.0
"""Plays containerd's shim: opens each output FIFO for writing and for reading, as containerd-shim-runc-v2 does, and writes.

Imported: `Shim`, in the test's own process. As a program: says "open", writes the text of `output` to stdout and stderr in chunks
of odd sizes, waiting whenever a FIFO is full, then ends: python logs_shim.py STDOUT STDERR LINES
"""

import os
import random
import sys
import threading

from pycm.ports import TaskIO


class Shim:
    def __init__(self, io):
        self.writers = {name: os.open(path, os.O_WRONLY) for name, path in _outputs(io)}
        self.readers = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for _, path in _outputs(io)]

    def write(self, data, stream="stdout"):
        while data:  # a process that is stopped and goes on has written a part
            data = data[os.write(self.writers[stream], data) :]

    def end(self):
        """The container's output has ended."""
        for descriptor in (*self.writers.values(), *self.readers):
            os.close(descriptor)
        self.writers, self.readers = {}, []


def _outputs(io):
    return [(name, path) for name, path in (("stdout", io.stdout), ("stderr", io.stderr)) if path]


def output(stream, lines):
    """Numbered lines of many lengths; every 40th is longer than a record, and there are multi-byte characters and an open end."""
    generator = random.Random(f"{stream} {lines}")
    texts = [
        f"{stream} {number} " + "é<x>" * generator.randrange(40) + "y" * (17_000 * (number % 40 == 0))
        for number in range(lines)
    ]
    return "\n".join(texts)


def _write_all(descriptor, data, seed):
    generator = random.Random(seed)
    while data:
        written = os.write(descriptor, data[: generator.choice((1, 100, 5000, 70_000))])
        data = data[written:]


def main():
    stdout, stderr, lines = sys.argv[1:]
    shim = Shim(TaskIO(stdout=stdout, stderr=stderr))
    print("open", flush=True)
    threads = [
        threading.Thread(target=_write_all, args=(descriptor, output(stream, int(lines)).encode(), stream))
        for stream, descriptor in shim.writers.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shim.end()


if __name__ == "__main__":
    main()
