# SPDX-License-Identifier: Apache-2.0
"""`python -m pycm`: the same as the console script."""

import sys

from pycm.cli.main import pycm

if __name__ == "__main__":
    sys.exit(pycm())
