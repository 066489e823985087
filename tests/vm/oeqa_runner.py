# SPDX-License-Identifier: Apache-2.0
"""Run the layer's runtime cases against a machine that answers ssh on a loop-back port: oeqa_runner.py PORT [--tree DIRECTORY]

A build system runs them by `bitbake -c testimage`. Here the few classes of oeqa that they use are played by those below, or, with --tree,
are the real ones of a release (a directory with openembedded-core and bitbake). Prints {test: [outcome, text]} as JSON.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import logging
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = Path(__file__).parents[2] / "meta-leda-pycm/lib/oeqa/runtime/cases"
MODULE = "pycm"
PACKAGES = {"pycm", "pycm-cli", "mosquitto", "python3-paho-mqtt", "dropbear"}
"""What the manifest of the Debian-based image would name."""
SSH_OPTIONS = (
    "UserKnownHostsFile=/dev/null",
    "StrictHostKeyChecking=no",
    "LogLevel=ERROR",
    "BatchMode=yes",
    "ConnectTimeout=30",
)
# The tests depend on a test of oe-core that needs a whole image to pass.
SSH_CASE = """
from oeqa.runtime.case import OERuntimeTestCase

class SSHTest(OERuntimeTestCase):
    def test_ssh(self):
        self.assertEqual(self.target.run("true")[0], 0)
"""


class Target:
    """As oeqa's OESSHTarget: status and output of a command; 255 where no connection is made or kept."""

    def __init__(self, port: int) -> None:
        self.port = port

    def run(self, command: str, timeout: float = 300) -> tuple[int, str]:
        options = [word for option in SSH_OPTIONS for word in ("-o", option)]
        words = ["ssh", "-F", "none", *options, "-p", str(self.port), "-l", "root", "127.0.0.1"]
        command = f"export PATH=/usr/sbin:/sbin:/usr/bin:/bin; {command}"
        try:
            done = subprocess.run(
                [*words, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 255, f"no answer within {timeout} s"
        return done.returncode, done.stdout.rstrip()


class Results(unittest.TestResult):
    """Outcome and text of each test, by its identifier."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, str]] = {}
        #: Where the real OETestDepends looks.
        self.successes: list[tuple[unittest.TestCase, None]] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.successes.append((test, None))
        self.note(test, "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.note(test, "failed", str(err[1]))

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.note(test, "error", repr(err[1]))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def note(self, test: unittest.TestCase, outcome: str, text: str = "") -> None:
        self.found[test.id()] = (outcome, text)
        print(test.id(), outcome, text, file=sys.stderr, flush=True)


class Case(unittest.TestCase):
    """Plays OERuntimeTestCase."""

    tc: Any = None
    target: Any = None


def depends(names: list[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Plays OETestDepends: skip unless the tests of this module that are named have passed."""

    def decorate(method: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(method)
        def run(case: Case) -> None:
            for name in names:
                if (
                    name.startswith(MODULE + ".")
                    and case.tc.results.found.get(name, ("not run",))[0] != "passed"
                ):
                    raise unittest.SkipTest(f"depends on {name}")
            method(case)

        run.__dict__["depends"] = [*names, *getattr(method, "depends", [])]
        return run

    return decorate


def has_package(names: list[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Plays OEHasPackage: skip unless the image has one of these packages."""
    reason = f"needs one of the packages {', '.join(names)}"
    return unittest.skipUnless(set(names) & PACKAGES, reason)


def play_classes() -> None:
    """Put modules in place that are named as oeqa's."""
    for name, attributes in {
        "oeqa.runtime.case": {"OERuntimeTestCase": Case},
        "oeqa.core.decorator.depends": {"OETestDepends": depends},
        "oeqa.runtime.decorator.package": {"OEHasPackage": has_package},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module


def ordered(cases: dict[str, unittest.TestCase]) -> list[unittest.TestCase]:
    """Each test after those that it depends on, otherwise by name."""
    placed: dict[str, unittest.TestCase] = {}

    def place(name: str) -> None:
        case = cases.get(name)
        if case is None or name in placed:
            return
        for other in getattr(getattr(case, case._testMethodName), "depends", []):
            place(other)
        placed[name] = case

    for name in sorted(cases):
        place(name)
    return list(placed.values())


def run_played(port: int) -> Results:
    play_classes()
    spec = importlib.util.spec_from_file_location(MODULE, CASES / f"{MODULE}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = Results()
    Case.target = Target(port)
    Case.tc = types.SimpleNamespace(target=Case.target, results=results)
    loaded = unittest.defaultTestLoader.loadTestsFromModule(module)
    cases = {case.id(): case for suite in loaded for case in suite if isinstance(case, unittest.TestCase)}
    unittest.TestSuite(ordered(cases)).run(results)
    return results


def run_real(port: int, tree: Path) -> Results:
    """As testimage.bbclass does: the release's loader, decorators, context and ssh target."""
    sys.path[:0] = [str(tree / "openembedded-core/meta/lib"), str(tree / "bitbake/lib")]
    from oeqa.core.target.ssh import OESSHTarget
    from oeqa.runtime.context import OERuntimeTestContext

    logger = logging.getLogger("oeqa")
    target = OESSHTarget(logger, "127.0.0.1", "127.0.0.1", port=str(port))
    arguments: list[Any] = [{"MLPREFIX": ""}, logger, target, PACKAGES, ""]
    if (
        tree / "openembedded-core/meta/classes/testimage.bbclass"
    ).exists():  # kirkstone's context has a dumper of the host, too
        arguments.insert(3, None)
    context = OERuntimeTestContext(*arguments)
    with tempfile.TemporaryDirectory() as other:
        Path(other, "ssh.py").write_text(SSH_CASE)
        context.loadTests([other, str(CASES)], modules=["ssh", MODULE])
        results = context.results = Results()
        context.suites.run(results)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--tree", type=Path)
    options = parser.parse_args()
    results = run_real(options.port, options.tree) if options.tree else run_played(options.port)
    print(json.dumps(results.found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
