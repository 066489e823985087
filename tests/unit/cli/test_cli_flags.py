# SPDX-License-Identifier: Apache-2.0
"""Flags: the forms that are taken, the values that come out, the errors, the help."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.errors import InvalidInputError
from pycm.flags import HELP, Flag, command_index, parse, quote, read_csv, read_int, render_help

TABLE = (
    HELP,
    Flag("name", "n", about="name of the container"),
    Flag("tail", "t", "int32", 100, "lines"),
    Flag("force", "f", "bool"),
    Flag("i", "", "bool"),
    Flag("e", "", "stringArray"),
    Flag("ports", "", "strings", ("a", "b"), "ports"),
    Flag("wait", "w", "duration", 30_000_000_000),
    Flag("extra", "", "map", about="pairs"),
    Flag("big", "", "int64"),
    Flag("timeout", "", "int", 30),
)


def given_values(*argv):
    parsed = parse(TABLE, argv)
    return {name: parsed.values[name] for name in parsed.given}


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--name", "x"], {"name": "x"}),
        (["--name=x"], {"name": "x"}),
        (["--name=a=b"], {"name": "a=b"}),
        (["--name="], {"name": ""}),
        (["--name", "-x"], {"name": "-x"}),
        (["--name", "--"], {"name": "--"}),
        (["-n", "x"], {"name": "x"}),
        (["-nx"], {"name": "x"}),
        (["-n=x"], {"name": "x"}),
        (["-fn", "x"], {"force": True, "name": "x"}),
        (["-fnx"], {"force": True, "name": "x"}),
        (["-f"], {"force": True}),
        (["-f=false"], {"force": False}),
        (["--force"], {"force": True}),
        (["--force=0"], {"force": False}),
        (["--force=T"], {"force": True}),
        (["--i"], {"i": True}),
        (["-t-1"], {"tail": -1}),
        (["--tail", "0x10"], {"tail": 16}),
        (["--tail", "010"], {"tail": 8}),
        (["--big", "1_000"], {"big": 1000}),
        (["--big=-9223372036854775808"], {"big": -(1 << 63)}),
        (["-t", "1", "-t", "2"], {"tail": 2}),
        (["--e", "A=b,c", "--e=D"], {"e": ("A=b,c", "D")}),
        (["--ports", "1,2", "--ports=3"], {"ports": ("1", "2", "3")}),
        (["--ports="], {"ports": ()}),
        (["--ports", '"x,y",z'], {"ports": ("x,y", "z")}),
        (["--wait", "1m30s"], {"wait": 90_000_000_000}),
        (["--extra", "a=1,b=x=y", "--extra=c="], {"extra": {"a": "1", "b": "x=y", "c": ""}}),
    ],
)
def test_every_form_of_a_flag_is_taken(argv, values):
    assert given_values(*argv) == values


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--x"], "unknown flag: --x"),
        (["--nam=x"], "unknown flag: --nam"),
        (["--time", "5"], "unknown flag: --time"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-fx"], "unknown shorthand flag: 'x' in -x"),
        (["-i"], "unknown shorthand flag: 'i' in -i"),
        (["-'"], r"unknown shorthand flag: '\'' in -'"),
        (["--name"], "flag needs an argument: --name"),
        (["-n"], "flag needs an argument: 'n' in -n"),
        (["-fn"], "flag needs an argument: 'n' in -n"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---x"], "bad flag syntax: ---x"),
        (
            ["-t", "x"],
            'invalid argument "x" for "-t, --tail" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (
            ["--tail=2147483648"],
            'invalid argument "2147483648" for "-t, --tail" flag: strconv.ParseInt: parsing "2147483648": value out of range',
        ),
        (
            ["--timeout", "5s"],
            'invalid argument "5s" for "--timeout" flag: strconv.ParseInt: parsing "5s": invalid syntax',
        ),
        (
            ["--force=yes"],
            'invalid argument "yes" for "-f, --force" flag: strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        (["-w5"], 'invalid argument "5" for "-w, --wait" flag: time: missing unit in duration "5"'),
        (
            ["--extra", "a=b,c"],
            'invalid argument "a=b,c" for "--extra" flag: could not parse image verification config, invalid key-value pair - c',
        ),
        (
            ["--extra="],
            'invalid argument "" for "--extra" flag: the image verifier config could not be empty',
        ),
        (["--a\nb"], r"unknown flag: --a\nb"),
    ],
)
def test_error_is_the_text_that_clients_know(argv, error):
    with pytest.raises(InvalidInputError, match=f"^{re.escape(error)}$"):
        parse(TABLE, argv)


def test_bool_takes_no_value_word():
    parsed = parse(TABLE, ["--force", "false"])
    assert parsed.values["force"] is True
    assert parsed.rest == ["false"]


def test_flags_and_words_may_mix_and_two_dashes_end_the_flags():
    parsed = parse(TABLE, ["a", "-f", "b", "-", "", "--", "-n", "--name"])
    assert parsed.rest == ["a", "b", "-", "", "-n", "--name"]
    assert parsed.given == {"force"}


def test_flags_end_at_the_first_word_where_words_may_not_mix():
    parsed = parse(TABLE, ["-f", "image", "-n", "x", "--", "y"], interspersed=False)
    assert parsed.rest == ["image", "-n", "x", "--", "y"]
    assert parsed.values["name"] == ""


def test_what_is_not_given_has_its_default():
    parsed = parse(TABLE, [])
    assert parsed.given == set()
    assert parsed.values["tail"] == 100
    assert parsed.values["ports"] == ("a", "b")
    assert parsed.values["extra"] == {}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", ()),
        ("a", ("a",)),
        ("a,,b,", ("a", "", "b", "")),
        ('"a ""b"" c",d', ('a "b" c', "d")),
        ('"",x', ("", "x")),
        ('x,""', ("x", "")),
        ('"x",', ("x", "")),
    ],
)
def test_list_is_one_record_of_csv(text, fields):
    assert read_csv(text) == fields


@pytest.mark.parametrize("text", ['a"b', '"a', '"a"b', '"a""'])
def test_wrong_quotes_in_a_list_are_an_error(text):
    with pytest.raises(InvalidInputError, match='" in'):
        read_csv(text)


@pytest.mark.parametrize(
    "text",
    ["", "+", "-", " 1", "1 ", "1\n", "0x", "09", "1__0", "_1", "1_", "٣", "1.0", "1e3", "0x-1", "+-1"],
)
def test_what_is_no_integer_is_refused(text):
    with pytest.raises(InvalidInputError, match="invalid syntax"):
        read_int(text)


def test_integer_of_a_million_digits_is_refused_at_once():
    with pytest.raises(InvalidInputError) as error:
        read_int("9" * 1_000_000)
    assert len(str(error.value)) < 300


def test_quotes_are_those_of_go():
    assert quote('a"b\\c\n\x00é\udcff') == r'"a\"b\\c\n\x00é\xff"'


@given(st.lists(st.text(max_size=12) | st.sampled_from(["-t", "--tail=", "-fn", "--ports"]), max_size=6))
def test_any_line_is_read_or_refused_in_one_line(argv):
    error = ""
    try:
        parse(TABLE, argv)
    except InvalidInputError as caught:
        error = str(caught)
    assert "\n" not in error


@pytest.mark.parametrize(
    ("argv", "index"),
    [
        (["list"], 0),
        (["--name", "x", "logs"], 2),
        (["--name=x", "logs"], 1),
        (["-n", "x", "logs"], 2),
        (["-nx", "logs"], 1),
        (["--help", "logs"], 1),
        (["-h", "logs"], 1),
        (["--debug"], None),
        (["--", "list"], None),
        (["", "list"], 1),
        ([], None),
    ],
)
def test_command_is_found_behind_flags_of_its_own(argv, index):
    assert command_index((HELP,), argv) == index


def test_help_has_its_sections_and_sorted_flags():
    text = render_help(
        "Do it.", "kanto-cm do [flags]", TABLE[:7], examples="  kanto-cm do x", global_flags=TABLE[10:]
    )
    assert (
        text
        == """\
Do it.

Usage:
  kanto-cm do [flags]

Examples:
  kanto-cm do x

Flags:
      --e stringArray
  -f, --force
  -h, --help            print this help
      --i
  -n, --name string     name of the container
      --ports strings   ports (default [a,b])
  -t, --tail int32      lines (default 100)

Global Flags:
      --timeout int   (default 30)
"""
    )


def test_nothing_slow_is_imported():
    code = "import sys; import pycm.flags; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code]
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    loaded = subprocess.run(command, env=paths, capture_output=True, text=True, check=True).stdout.split()
    assert not {"argparse", "dataclasses", "enum", "inspect", "re", "typing"} & set(loaded)
