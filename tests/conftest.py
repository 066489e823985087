# SPDX-License-Identifier: Apache-2.0
"""What is the same for all tests."""

import contextlib
import signal


def pytest_configure() -> None:
    keep_sigint()
    with contextlib.suppress(ImportError):  # the tests of the layer have an environment without it
        keep_no_time()


def keep_no_time() -> None:
    """Fail no generated case for its 200 ms: a process that waits for a processor needs longer."""
    from hypothesis import settings

    settings.register_profile("pycm", settings(), deadline=None)
    settings.load_profile("pycm")


def keep_sigint() -> None:
    """Ctrl-C means what it means at a terminal, here and in all programs that are started.

    A shell without job control has what it runs in the background ignore SIGINT, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
