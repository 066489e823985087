# SPDX-License-Identifier: Apache-2.0
"""Agents that do nothing but pump one container's output, to be killed: python logs_agent.py HOME EXEC_ROOT MAX_SIZE

A line "run POINT" or "finish POINT" on standard input starts one; POINT is its fail point or empty. Its process id is printed,
then its exit status when it has ended. "finish": it drains the output to its end and exits; "run": it stays until it
dies. Agents are forked, so that twenty deaths take a second; what reads the fail point is imported after the fork.
"""

import asyncio
import os
import sys

import pycm.errors
import pycm.model.units
import pycm.ports  # noqa: F401  all this is imported once only
from pycm.model.container import LogConfiguration, LogDriverConfiguration

CONTAINER = "c1"


def config(max_size):
    return LogConfiguration(
        driver_config=LogDriverConfiguration(type="json-file", max_files=1000, max_size=max_size)
    )


async def agent(home, exec_root, max_size, *, finish):
    from pycm.logs import fifos
    from pycm.logs.front import JsonFileLogs

    logs = JsonFileLogs(home, exec_root)
    logs.attach(CONTAINER, fifos.find(f"{exec_root}/fifo/{CONTAINER}"), config(max_size))
    if not finish:
        await asyncio.Event().wait()
    await logs.finish(CONTAINER)
    await logs.close()


def main():
    for line in sys.stdin:
        command, point = line.rstrip("\n").split(" ")
        pid = os.fork()
        if not pid:
            os.environ["PYCM_FAIL_POINT"] = point
            asyncio.run(agent(*sys.argv[1:], finish=command == "finish"))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
