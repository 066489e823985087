# SPDX-License-Identifier: Apache-2.0
"""Update the lock files of kas files to the newest commits of their branches, and show what changed.

Usage: scripts/kas-locks [KAS_FILE...]

Without arguments: all kas files of this repository that have a lock file. Repositories are cloned to build/yocto/locks,
or to $KAS_WORK_DIR. kas lists the new commits of each repository; a summary of what moved in each lock file follows.
Nothing is committed: build an image, then commit the lock files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"
PIN = re.compile(r"^    ([\w.-]+):\n      commit: ([0-9a-f]{40})$", re.MULTILINE)


def lock_of(file: Path) -> Path:
    """Return the lock file's path as kas computes it."""
    return file.with_suffix(f".lock{file.suffix}")


def pins(text: str) -> dict[str, str]:
    return dict(PIN.findall(text))


def report(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return a line for each pin that moved or is new."""
    return [
        f"  {name}: {old.get(name, 'new')[:12]} -> {commit[:12]}"
        for name, commit in new.items()
        if commit != old.get(name)
    ]


def update(file: Path, work: Path) -> bool:
    """Update the lock files that belong to *file* with kas; False if kas failed."""
    # kas-raspberrypi.yml includes kas.yml: kas updates the locks of both
    locks = {path for path in file.parent.glob("kas*.lock.yml") if not path.is_symlink()} | {lock_of(file)}
    before = {lock: lock.read_text() if lock.exists() else "" for lock in sorted(locks)}
    work.mkdir(parents=True, exist_ok=True)
    command = ["kas", "--log-level", "warning", "lock", "--update", str(file)]
    done = subprocess.run(command, env={**os.environ, "KAS_WORK_DIR": str(work)}, check=False)
    for lock, old in before.items():
        new = lock.read_text() if lock.exists() else old
        if new != old and not new.startswith(LICENCE):
            lock.write_text(LICENCE + new)  # kas writes no comments
        if changes := report(pins(old), pins(new)):
            print("\n".join([f"{lock.name}:", *changes]), flush=True)
    return done.returncode == 0


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return 0
    given = [Path(name).absolute() for name in sys.argv[1:]]
    known = [path for path in sorted(REPOSITORY.glob("kas*.yml")) if lock_of(path).is_file()]
    files = given or [path for path in known if not lock_of(path).is_symlink()]
    base = Path(os.environ.get("KAS_WORK_DIR") or REPOSITORY / "build/yocto/locks")
    # one directory for each file: releases have the same repositories on other branches
    failed = [file.name for file in files if not update(file, base / file.stem)]
    if failed:
        print(f"error: kas failed for {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
