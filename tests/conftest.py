# SPDX-License-Identifier: Apache-2.0
"""What is the same for all tests."""

import signal


def pytest_configure() -> None:
    """Ctrl-C means what it means at a terminal, here and in all programs that are started.

    A shell without job control has what it runs in the background ignore SIGINT, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
