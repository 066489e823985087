# SPDX-License-Identifier: Apache-2.0
"""`python -m pycm.registry`: a pull worker. For the agent, not for people: it wants a job on standard input."""

from pycm.registry.worker import main

if __name__ == "__main__":
    main()
