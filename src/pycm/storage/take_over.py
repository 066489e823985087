# SPDX-License-Identifier: Apache-2.0
"""What Kanto leaves behind beside its records (docs/spec/files.md, "Take-over")."""

from __future__ import annotations

import contextlib
import logging
import os

from pycm.storage.mounts import in_own_thread, see_as_init, unmount

log = logging.getLogger("pycm.storage")


def unmount_snapshots(home_dir: str) -> None:
    """Unmount the file systems that Kanto mounts a second time for itself, at <home_dir>/overlayfs/<container>/rootfs.

    Nothing reads them; they keep the room of removed containers taken until the machine restarts. What cannot be unmounted is told.
    """
    base = os.path.join(os.path.realpath(home_dir), "overlayfs")
    try:
        places = [entry.path for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return  # Kanto was never here
    in_own_thread(lambda: _unmount_all(base, places))


def _unmount_all(base: str, places: list[str]) -> None:
    see_as_init(base)
    for place in places:
        path = os.path.join(place, "rootfs")
        try:
            if unmount(path):
                log.info("unmounted %s, which Kanto left mounted", path)
        except OSError as error:
            log.warning("cannot unmount %s, which Kanto left mounted: %s", path, error.strerror)
            continue
        for directory in (path, place):
            with contextlib.suppress(OSError):  # gone, or with something in it
                os.rmdir(directory)
