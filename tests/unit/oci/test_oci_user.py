# SPDX-License-Identifier: Apache-2.0
"""USER of an image's configuration against the image's own passwd and group files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.errors import InvalidInputError
from pycm.oci.user import ProcessUser, resolve_user

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# a comment:x:1:1
#gone:x:1003:1003::/:
broken line
bad:x:one:two::/:
app:x:1000:1001:App:/home/app:/bin/sh
\xff\xfe:x:1002:1002::/:
"""
GROUP = b"""\
root:x:0:
wheel:x:10:root,app
app:x:1001:
video:x:44:other,app
audio:x:bad:app
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", ProcessUser(0, 0, (10,))),
        ("root", ProcessUser(0, 0, (10,))),
        ("app", ProcessUser(1000, 1001, (10, 44))),
        ("1000", ProcessUser(1000, 1001, (10, 44))),
        ("app:video", ProcessUser(1000, 44, (10, 44))),
        ("app:", ProcessUser(1000, 1001, (10, 44))),
        (":video", ProcessUser(0, 44, (10,))),
        ("1000:99", ProcessUser(1000, 99, (10, 44))),
        ("77", ProcessUser(77, 0)),
        ("77:88", ProcessUser(77, 88)),
        ("4294967294", ProcessUser(4294967294, 0)),
    ],
)
def test_names_and_numbers_are_found(user, expected):
    assert resolve_user(user, PASSWD, GROUP) == expected


def test_an_image_without_the_files_runs_as_root_or_as_a_number():
    assert resolve_user("", b"", b"") == ProcessUser()
    assert resolve_user("5:6", b"", b"") == ProcessUser(5, 6)


@pytest.mark.parametrize("user", ["nobody", "#gone", "-1", "4294967295", "9" * 5000, "bad", "app\0", "á"])
def test_an_unknown_user_is_named(user):
    with pytest.raises(InvalidInputError, match="is not in its /etc/passwd") as error:
        resolve_user(user, PASSWD, GROUP)
    assert len(str(error.value)) < 200


def test_an_unknown_group_is_named():
    with pytest.raises(InvalidInputError, match=r"'app:games' is not in its /etc/group"):
        resolve_user("app:games", PASSWD, GROUP)


@given(st.text(max_size=20), st.binary(max_size=200), st.binary(max_size=200))
def test_anything_ends_in_a_user_or_one_clear_error(user, passwd, group):
    try:
        found = resolve_user(user, passwd, group)
    except InvalidInputError:
        return
    assert 0 <= found.uid < 2**32 - 1
    assert 0 <= found.gid < 2**32 - 1
