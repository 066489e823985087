# SPDX-License-Identifier: Apache-2.0
"""Flags as Kanto's command line takes them: a table of Flags in, values out.

The rules and error texts are those of the flag package that the original was built with, since scripts rely on them: no
abbreviations, `--flag value` and `--flag=value`, `-n value`, `-nvalue` and `-n=value`, bundled shorts, bools without a
value word, comma-separated lists whose first use replaces the default. A long flag may have a single letter.

Every start of the command line passes through here: this module imports nothing but two small modules of this package
(plain classes instead of dataclasses spare the import of inspect and all that comes with it).
"""

from __future__ import annotations

from pycm.errors import InvalidInputError
from pycm.model.durations import format_duration, parse_duration

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

_MAX_SHOWN = 200  # characters of a wrong value or unknown name that are repeated in an error


class Flag:
    """One row of a flag table.

    kind: "string", "int", "int32", "int64", "bool", "strings" (CSV, repeatable), "stringArray" (repeatable, not split),
    "duration" (value: nanoseconds), "map" (k=v,k=v; repeatable).
    word: what stands for the value in the help, if not the usual word of the kind.
    """

    __slots__ = ("about", "default", "kind", "name", "short", "word")

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = "string",
        default: Any = None,
        about: str = "",
        *,
        word: str = "",
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.default = _ZERO[kind] if default is None else default
        self.about = about
        self.word = word or _WORDS[kind]

    def __repr__(self) -> str:
        return f"Flag({self.title!r}, {self.kind!r}, {self.default!r})"

    @property
    def title(self) -> str:
        """As errors name it: "-t, --tail" or "--tail"."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


class Parsed:
    """values: of every flag in the table; given: names of the flags on the line; rest: the other words."""

    __slots__ = ("given", "rest", "values")

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.given: set[str] = set()
        self.rest: list[str] = []


_ZERO: dict[str, Any] = {
    "string": "", "int": 0, "int32": 0, "int64": 0, "bool": False,
    "strings": (), "stringArray": (), "duration": 0, "map": {},
}  # fmt: skip
_WORDS = {
    "string": "string", "int": "int", "int32": "int32", "int64": "int", "bool": "",
    "strings": "strings", "stringArray": "stringArray", "duration": "duration", "map": "stringToString",
}  # fmt: skip

#: The flag that every command has.
HELP = Flag("help", "h", "bool", about="print this help")


# ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(flags: Sequence[Flag], argv: Sequence[str], *, interspersed: bool = True) -> Parsed:
    """Read *argv* (without the program's name) by the table *flags*. Errors: InvalidInputError, one line.

    Without *interspersed* the first word that is not a flag ends the flags.
    """
    return _Parser(flags, argv).run(interspersed=interspersed)


class _Parser:
    """One reading of a line: the words still to come and what was found."""

    def __init__(self, flags: Sequence[Flag], argv: Sequence[str]) -> None:
        self.words = list(argv)[::-1]  # the next one is the last: pop is cheap
        self.long = {flag.name: flag for flag in flags}
        self.short = {flag.short: flag for flag in flags if flag.short}
        self.parsed = Parsed({flag.name: flag.default for flag in flags})

    def run(self, *, interspersed: bool) -> Parsed:
        while self.words:
            word = self.words.pop()
            if word == "--":
                break
            if word.startswith("--"):
                self.take_long(word)
            elif word.startswith("-") and word != "-":
                self.take_shorts(word[1:])
            else:
                self.parsed.rest.append(word)
                if not interspersed:
                    break
        self.parsed.rest += self.words[::-1]
        return self.parsed

    def take_long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise InvalidInputError(f"bad flag syntax: {printable(word)}")
        flag = self.long.get(name)
        if flag is None:
            raise InvalidInputError(f"unknown flag: --{printable(name)}")
        if not equals:
            value = self.next_value(flag, f"--{name}")
        self.store(flag, value)

    def take_shorts(self, letters: str) -> None:
        """Letters of bools, of which the last one may take a value: "-fn x", "-nx" or "-n=x"."""
        while letters:
            flag = self.short.get(letters[0])
            if flag is None:
                raise InvalidInputError(
                    f"unknown shorthand flag: {_quote_rune(letters[0])} in -{printable(letters)}"
                )
            rest = letters[1:]
            if len(rest) > 1 and rest[0] == "=":
                value, rest = rest[1:], ""
            elif flag.kind == "bool":
                value = "true"
            elif rest:
                value, rest = rest, ""
            else:
                value = self.next_value(flag, f"{_quote_rune(letters[0])} in -{printable(letters)}")
            self.store(flag, value)
            letters = rest

    def next_value(self, flag: Flag, title: str) -> str:
        if flag.kind == "bool":
            return "true"
        if not self.words:
            raise InvalidInputError(f"flag needs an argument: {title}")
        return self.words.pop()

    def store(self, flag: Flag, text: str) -> None:
        try:
            value = read_value(flag.kind, text)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"invalid argument {quote(text)} for {quote(flag.title)} flag: {error}"
            ) from None
        if flag.name in self.parsed.given:
            value = _joined(flag.kind, self.parsed.values[flag.name], value)
        self.parsed.values[flag.name] = value
        self.parsed.given.add(flag.name)


def _joined(kind: str, earlier: Any, later: Any) -> Any:
    """What a repeated flag ends in: lists and maps grow, of other kinds the last one counts."""
    if kind == "map":
        return {**earlier, **later}
    return earlier + later if kind in ("strings", "stringArray") else later


def command_index(flags: Sequence[Flag], argv: Sequence[str]) -> int | None:
    """Return the index of the first word that is neither a flag nor the value of one; None if all are.

    *flags* are the global ones. An unknown flag counts as one with a value unless it is written with "=", as in the
    original: `--name x logs` finds `logs`.
    """
    bools = {f"--{flag.name}" for flag in flags if flag.kind == "bool"}
    bools |= {f"-{flag.short}" for flag in flags if flag.kind == "bool" and flag.short}
    i = 0
    while i < len(argv) and argv[i] != "--":
        word = argv[i]
        if word and not word.startswith("-"):
            return i
        takes_value = "=" not in word and (word.startswith("--") or len(word) == 2) and word not in bools
        i += 2 if takes_value else 1
    return None


# ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_value(kind: str, text: str) -> Any:
    """The value of one text for a flag of *kind*. Errors: InvalidInputError with the bare reason."""
    return _READERS[kind](text)


def read_bool(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidInputError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def read_int(text: str, bits: int = 64) -> int:
    """Decimal, or hexadecimal, octal, binary with the prefix 0x, 0o or 0, 0b; "_" may separate digits."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits[:1].isdigit() or not digits.isascii() or not digits.replace("_", "").isalnum():
        raise _no_integer(text, "invalid syntax")
    try:
        magnitude = int(digits, _base(digits)) if len(digits) <= _MAX_SHOWN else 1 << bits
    except ValueError:
        raise _no_integer(text, "invalid syntax") from None
    value = -magnitude if text.startswith("-") else magnitude
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise _no_integer(text, "value out of range")
    return value


def _no_integer(text: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"strconv.ParseInt: parsing {quote(text)}: {reason}")


def _base(digits: str) -> int:
    if digits[0] != "0" or len(digits) == 1:
        return 10
    return {"x": 16, "o": 8, "b": 2}.get(digits[1].lower(), 8)


def read_csv(text: str) -> tuple[str, ...]:
    """One CSV record; quotes are doubled inside a quoted field."""
    if '"' not in text:
        return tuple(text.split(",")) if text else ()
    fields = []
    rest: str | None = text
    while rest is not None:
        field, rest = _csv_field(rest)
        fields.append(field)
    return tuple(fields)


def _csv_field(text: str) -> tuple[str, str | None]:
    """The first field of a record and the rest after its comma; None at the end."""
    if not text.startswith('"'):
        field, comma, rest = text.partition(",")
        if '"' in field:
            raise InvalidInputError('bare " in non-quoted field')
        return field, rest if comma else None
    end = 1
    while (end := text.find('"', end)) != -1 and text[end + 1 : end + 2] == '"':
        end += 2
    if end == -1 or text[end + 1 : end + 2] not in ("", ","):
        raise InvalidInputError('extraneous or missing " in quoted-field')
    return text[1:end].replace('""', '"'), text[end + 2 :] if end + 1 < len(text) else None


def read_map(text: str) -> dict[str, str]:
    """Pairs as in "k=v,k=v". The wording of the errors is that of the one flag which has such a value."""
    if not text:
        raise InvalidInputError("the image verifier config could not be empty")
    pairs = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(
                f"could not parse image verification config, invalid key-value pair - {printable(item)}"
            )
        pairs[key.strip()] = value.strip()
    return pairs


def _read_int32(text: str) -> int:
    return read_int(text, 32)


def _read_one(text: str) -> tuple[str]:
    return (text,)


_READERS: dict[str, Callable[[str], Any]] = {
    "string": str, "int": read_int, "int32": _read_int32, "int64": read_int, "bool": read_bool,
    "strings": read_csv, "stringArray": _read_one, "duration": parse_duration, "map": read_map,
}  # fmt: skip


# ── texts ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def printable(text: str, limit: int = _MAX_SHOWN) -> str:
    """*text* on one line: control characters escaped, shortened if long."""
    if len(text) > limit:
        text = text[:limit] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(text: str, limit: int = _MAX_SHOWN) -> str:
    """A value in double quotes as Go's %q writes it, shortened if long."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"'), limit) + '"'


def _quote_rune(char: str) -> str:
    return "'" + ("\\" + char if char in "'\\" else printable(char)) + "'"


def render_default(flag: Flag) -> str:
    """The default as the help shows it; "" for zero values."""
    if not flag.default:
        return ""
    if flag.kind == "string":
        return quote(flag.default)
    if flag.kind in ("strings", "stringArray"):
        return "[" + ",".join(flag.default) + "]"
    if flag.kind == "duration":
        return format_duration(flag.default)
    return str(flag.default).lower() if flag.kind == "bool" else str(flag.default)


def render_flags(flags: Iterable[Flag]) -> str:
    """The lines of a "Flags:" section, sorted by long name."""
    rows = []
    for flag in sorted(flags, key=_by_name):
        head = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        default = render_default(flag)
        about = f"{flag.about} (default {default})".lstrip() if default else flag.about
        rows.append((f"{head} {flag.word}".rstrip(), about))
    width = max((len(head) for head, _ in rows), default=0)
    return "\n".join(f"{head:{width}}   {text}".rstrip() for head, text in rows)


def _by_name(flag: Flag) -> str:
    return flag.name


def render_help(
    description: str,
    usage: str,
    flags: Sequence[Flag] = (),
    *,
    examples: str = "",
    commands: Sequence[tuple[str, str]] = (),
    global_flags: Sequence[Flag] = (),
) -> str:
    """A command's help as one text with a final newline: description, usage, examples, commands, flags."""
    width = max((len(name) for name, _ in commands), default=0)
    listed = "\n".join(f"  {name:{width}}   {text}" for name, text in commands)
    sections = (
        ("Usage", f"  {usage}"),
        ("Examples", examples),
        ("Available Commands", listed),
        ("Flags", render_flags(flags)),
        ("Global Flags", render_flags(global_flags)),
    )
    parts = [description] + [f"{title}:\n{text}" for title, text in sections if text]
    return "\n\n".join(parts) + "\n"
