# SPDX-License-Identifier: Apache-2.0
"""Errors: text, hint, and the parts that clients read separately."""

from pycm.errors import InvalidInputError, OperationFailedError, PycmError, shorten


def test_hint_is_not_part_of_the_text() -> None:
    error = OperationFailedError("broker refused the login", hint="Set connection.client_username.")
    assert str(error) == error.masked == "broker refused the login"
    assert error.detail == "broker refused the login (Set connection.client_username.)"
    assert error.printed == "broker refused the login\nhint: Set connection.client_username."
    assert PycmError("plain").detail == PycmError("plain").printed == "plain"


def test_detail_shows_the_masked_text() -> None:
    error = PycmError("A=secret is invalid", hint="Use A=B.", masked="*** is invalid")
    assert error.detail == "*** is invalid (Use A=B.)"


def test_invalid_input_is_made_of_its_parts() -> None:
    error = InvalidInputError.of("interval_ms", "100", "is not between 500 and 86400000", hint="Use 500.")
    assert str(error) == "interval_ms: 100 is not between 500 and 86400000"
    assert (error.field, error.value, error.reason, error.hint) == (
        "interval_ms", "100", "is not between 500 and 86400000", "Use 500.",
    )  # fmt: skip


def test_shorten_keeps_both_ends_of_a_long_value() -> None:
    assert shorten("x" * 78) == repr("x" * 78)
    assert len(shorten("x" * 79)) == 80
    assert shorten("/a" * 60 + "/name.crt").endswith("/name.crt'")
    assert shorten("/a" * 60).startswith("'/a/a")
    assert "\n" not in shorten("\n" * 100)
