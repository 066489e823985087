# SPDX-License-Identifier: Apache-2.0
"""A directory for the configuration file, and the loading of a text from there."""

import pytest

from pycm.config.load import load


@pytest.fixture
def etc(tmp_path):
    directory = tmp_path / "etc"
    directory.mkdir()
    return directory


@pytest.fixture
def read(etc):
    """Load a file of this text, found in the usual place, with these flags."""

    def do(text, *argv, name="config.toml"):
        data = text if isinstance(text, bytes) else text.encode()
        (etc / name).write_bytes(data)
        return load(["--deployment-ctr-dir", str(etc / "none"), *argv], etc=str(etc))

    return do
