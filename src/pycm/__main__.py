# SPDX-License-Identifier: Apache-2.0
"""`python -m pycm`: the same as the console script, which does not import from the working directory either."""

import sys

if __name__ == "__main__":
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):  # safe_path: Python 3.11
        del sys.path[0]  # the working directory, which anybody may be able to write to

    from pycm.cli.main import pycm

    sys.exit(pycm())
