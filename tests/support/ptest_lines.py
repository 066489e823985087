# SPDX-License-Identifier: Apache-2.0
"""A plug-in of pytest (7.1 to 9) that prints a line a test as ptest-runner reads it: `PASS: name`, `FAIL: name` or `SKIP: name`.

A test whose fixture fails, before it or after it, is a FAIL, and so is a file that cannot be imported.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


class Lines:
    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The oldest pytest-asyncio (0.16, kirkstone) skips coroutines that have no mark."""
        for item in items:
            if inspect.iscoroutinefunction(getattr(item, "obj", None)):
                item.add_marker("asyncio")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(report.longreprtext)
            show("FAIL", report)
        elif report.skipped:
            show("SKIP", report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Set-up, call and tear-down each report; the worst of them is the test's outcome."""
        if report.failed:
            print(report.longreprtext)
            self.outcomes[report.nodeid] = "FAIL"
        elif report.skipped:
            self.outcomes.setdefault(report.nodeid, "SKIP")
        if report.when == "teardown":
            show(self.outcomes.pop(report.nodeid, "PASS"), report)


def show(word: str, report: pytest.CollectReport | pytest.TestReport) -> None:
    print(f"{word}: {report.nodeid}", flush=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Lines())
