# SPDX-License-Identifier: Apache-2.0
"""What containerd unpacked, made to outlive a power cut.

containerd 1.6 records in its database, which it syncs, that a layer is unpacked, while the layer's files may still be on their way to
the disk: after a power cut they are there, empty. So the file system is synced before the layer is committed.
"""

from __future__ import annotations

import os

from pycm.errors import OperationFailedError


def sync_file_system(directory: str) -> None:
    """Wait until all that was written to the file system of *directory* is on the disk. Without a directory: of all file systems.

    Blocks for as long as the disk needs: for a worker thread.
    """
    if not directory:
        os.sync()
        return
    import ctypes  # half a MiB, for those who unpack

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # containerd lives in another mount namespace
        os.sync()
        return
    try:
        if libc.syncfs(descriptor) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise OperationFailedError(f"the file system of {directory} cannot be written out: {reason}")
    finally:
        os.close(descriptor)
