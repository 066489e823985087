# SPDX-License-Identifier: Apache-2.0
"""CPU of one sweep against containerd's Tasks.Metrics for the same containers, containerd and its shims counted.

containerd is asked the cheapest way: one call for all containers, whose figures are not even unpacked.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_server import ContainerdServer, private_containerd
from figures import Figure
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpclib.client import Channel, UnaryUnaryMethod
from images import Image, write_archive
from processes import cpu_seconds, shims
from sample_cost import Floor, compare, sweep_nanoseconds

from pycm.metrics.sampler import Sampler

if TYPE_CHECKING:
    import argparse

FEW, MANY = 10, 100
#: How many times cheaper a sweep has to be.
LIMITS = {FEW: 40.0, MANY: 30.0}
ROUNDS = 7
CALLS = 15
WARM_UP = 2
IMAGE = Image()


def run(options: argparse.Namespace) -> list[Figure]:
    figures = []
    with private_containerd() as server, tempfile.TemporaryDirectory(prefix="pycm-bench-") as directory:
        archive = write_archive(Path(directory) / "image.tar", IMAGE)
        server.ctr("images", "import", archive)
        sampler = Sampler()
        for count in (FEW, MANY) if options.full else (FEW,):
            names = start_containers(server, sampler, count)
            figures.append(sweep(server, sampler, names))
        with Floor() as floor:
            text = "one sample of a real container, against C"
            figures.append(compare(floor, sampler, dict.fromkeys(names), "sample-real", text))
        sampler.close_all()
    return figures


def start_containers(server: ContainerdServer, sampler: Sampler, count: int) -> list[str]:
    """Idle containers until there are *count*, in a network namespace of their own, opened by the sampler."""
    running = tasks(server)
    for number in range(len(running), count):
        name = f"idle{number}"
        where = f"/{server.namespace}/{name}"
        server.ctr("run", "--detach", "--cgroup", where, IMAGE.name, name, "/bin/sleep", "86400")
    running = tasks(server)
    for name, pid in running.items():
        sampler.open(name, pid)
    return list(running)


def tasks(server: ContainerdServer) -> dict[str, int]:
    lines = [line.split() for line in server.ctr("tasks", "ls").splitlines()[1:]]
    return {line[0]: int(line[1]) for line in lines}


def sweep(server: ContainerdServer, sampler: Sampler, names: list[str]) -> Figure:
    """Both in turns, so that what else the machine does hits both; the median of the ratios of neighbours."""
    wanted = dict.fromkeys(names)
    sampler.baseline(names)
    assert len(sampler.sample(wanted)) == len(names)
    gc.collect()
    gc.freeze()  # as the agent does after its start
    own, theirs = [], []
    for _ in range(ROUNDS):
        own.append(sweep_nanoseconds(sampler, wanted) / 1e9)
        theirs.append(asyncio.run(ask_containerd(server)))
    gc.unfreeze()
    count = len(names)
    ratio = statistics.median(their / our for their, our in zip(theirs, own, strict=True))
    detail = f"{statistics.median(own) * 1e6:.0f} us against {statistics.median(theirs) * 1e6:.0f} us"
    text = f"sweep of {count} containers, cheaper than containerd's Metrics"
    return Figure(f"sweep-{count}", text, ratio, "times", LIMITS[count], at_least=True, detail=detail)


async def ask_containerd(server: ContainerdServer) -> float:
    """CPU seconds of one call: of this process, of containerd and of the shims."""
    request, reply = messages()
    assert server.process
    peers = [server.process.pid, *shims(server.namespace)]
    channel = Channel(path=server.address)
    try:
        method = UnaryUnaryMethod(channel, "/containerd.services.tasks.v1.Tasks/Metrics", request, reply)
        metadata = {"containerd-namespace": server.namespace}
        for _ in range(WARM_UP):
            answer = await method(request(), metadata=metadata)
        assert len(answer.metrics) == len(peers) - 1, "containerd did not measure every container"
        before = cpu_seconds(peers) + time.process_time()
        for _ in range(CALLS):
            await method(request(), metadata=metadata)
        return (cpu_seconds(peers) + time.process_time() - before) / CALLS
    finally:
        channel.close()


def messages() -> tuple[type, type]:
    """The two messages of that call, which pycm itself does not use: made here from their field numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    file.message_type.add(name="Request").field.add(
        name="filters", number=1, label=field.LABEL_REPEATED, type=field.TYPE_STRING
    )
    file.message_type.add(name="Metric").field.add(
        name="id", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING
    )
    file.message_type.add(name="Reply").field.add(
        name="metrics",
        number=1,
        label=field.LABEL_REPEATED,
        type=field.TYPE_MESSAGE,
        type_name=".bench.Metric",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("bench.Request", "bench.Reply")
    request, reply = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names)
    return request, reply
