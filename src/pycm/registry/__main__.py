# SPDX-License-Identifier: Apache-2.0
"""Run a pull worker, which expects a job on standard input. For the agent (`workers.py` starts it), not for people."""

from pycm.registry.worker import main

if __name__ == "__main__":
    main()
