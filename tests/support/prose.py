# SPDX-License-Identifier: Apache-2.0
"""Find the prose of a file (docstrings, comments, texts for users, paragraphs) and judge it by docs/style.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDTH = 120
"""Longest line of prose, in characters. Tables, code and lines that are one long word (addresses) are exempt."""
SENTENCE = 30
"""Longest sentence, in words. The guide says 25; beyond this the test fails."""
INSTEAD = {
    r"told": "report, send, publish, known",
    r"tells": "reports, sends, publishes",
    r"anew": "again",
    r"(for|from) want of": "because ... is missing",
    r"goes": "a verb that says what happens: is sent, is removed, continues",
    r"stands?\b(?!-in| for)": "is, exists, is listed",
    r"stood": "was, existed",
    r"asked for": "requested",
    r"taken\b(?! over)": "used, accepted, chosen, occupied",
    r"brought along": "included, shipped",
    r"what is wrong": "the cause, the fault",
    r"tried again": "retries",
    r"(?<!there )(is|are|was|were) no (?!longer|more than)": "is not a",
    r"left alone": "not changed, refused",
    r"makes? no sense": "is malformed, is invalid",
    r"cannot be(?=[:;.,)]|$)": "is invalid, must be",
    r"be had": "is unavailable",
    r"no such thing": "not found",
    r"in vain": "without success",
    r"is said": "is reported",
    r"out of step": "out of sync",
    r"hears?": "receives, is notified",
    r"shared specification": "a page in docs/spec/",
}
"""Words of the old dialect, as patterns, and what to write in their place."""
FORBIDDEN = re.compile("|".join(rf"\b(?P<w{n}>{word})" + ("" if word[-1] == ")" else r"\b") for n, word in enumerate(INSTEAD)), re.IGNORECASE)  # fmt: skip
DOCUMENT = re.compile(r"(?<![\w/.*<>{}-])(?:[\w-][\w.-]*/)*[\w][\w.-]*\.(?:md|py|svg)(?![\w*-])")
TOOL_COMMENT = re.compile(r"#\s*(noqa|type:|fmt:|pragma|pylint|shellcheck|SPDX|compat\b|!)")


@dataclass
class Text:
    """A piece of prose and the line on which it begins."""

    line: int
    text: str
    kind: str


def without_code(text: str) -> str:
    return re.sub(r"(`+)[^`].*?\1", "CODE", text, flags=re.DOTALL)


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def literal(node: ast.AST) -> str | None:
    """A string literal as the reader sees it, "{}" where an f-string has a value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "{}" for part in node.values)
    return None


def strings(node: ast.AST, exempt: set[int]) -> Iterator[Text]:
    """Docstrings, and texts of three words or more; not those of a statement with a `# compat` on or above it."""
    for child in ast.iter_child_nodes(node):
        if is_docstring(child):
            assert isinstance(child, ast.Expr)
            yield Text(child.lineno, literal(child.value) or "", "docstring")
            continue
        if isinstance(child, ast.stmt) and not hasattr(child, "body"):
            assert child.end_lineno is not None
            if exempt.intersection(range(child.lineno - 1, child.end_lineno + 1)):
                continue
        text = literal(child)
        if text is None:
            yield from strings(child, exempt)
        elif len(re.findall(r"[A-Za-z]{2,}", text)) > 2 and " " in text:
            yield Text(getattr(child, "lineno", 0), text, "string")


def comments(source: str) -> Iterator[Text]:
    """Comments; those on consecutive lines of their own are one text."""
    block: Text | None = None
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or TOOL_COMMENT.match(token.string):
            continue
        line, text = token.start[0], token.string.lstrip("#: ")
        alone = not token.line[: token.start[1]].strip()
        if block and alone and line == last + 1:
            block.text += "\n" + text
        else:
            if block:
                yield block
            block = Text(line, text, "comment")
        last = line
    if block:
        yield block


def python_texts(source: str) -> list[Text]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    exempt = {token.start[0] for token in tokens if token.type == tokenize.COMMENT and re.match(r"#\s*compat\b", token.string)}  # fmt: skip
    return [*strings(ast.parse(source), exempt), *comments(source)]


def shell_texts(source: str) -> list[Text]:
    """Comments and what is printed."""
    lines = enumerate(source.splitlines(), 1)
    return [
        Text(number, line.lstrip(" #"), "comment" if line.lstrip().startswith("#") else "string")
        for number, line in lines
        if re.match(r"\s*#(?!!)", line) or re.search(r"\s# |\b(echo|fail|printf) ", line)
    ]


def page_texts(source: str) -> list[Text]:
    """Paragraphs, items of lists and cells of tables; no code. A line `<!-- compat -->` exempts the paragraph below it."""
    texts, inside, block = [], False, ""
    exempt = False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            continue
        starts = (
            not line.strip()
            or block.startswith("#")
            or re.match(r"\s*([-*|#>]|\d+\.) ?", line)
            or line.lstrip().startswith(("```", "<!--"))
        )
        if starts and block:
            if not exempt:
                texts.append(Text(number - block.count("\n"), block, "prose"))
            block, exempt = "", False
        if "<!-- compat" in line:
            exempt = True
        elif line.lstrip().startswith("|"):
            texts += [Text(number, cell, "cell") for cell in without_code(line).split("|") if not exempt]
        elif line.strip() and not line.lstrip().startswith(("```", "<!--")):
            block += line + "\n"
    return texts


def texts_of(path: Path) -> list[Text]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return page_texts(source)
    return (
        python_texts(source)
        if path.suffix == ".py" or "python" in source.split("\n", 1)[0]
        else shell_texts(source)
    )


def dialect(text: Text) -> list[str]:
    found = FORBIDDEN.finditer(without_code(text.text).replace("\n", " "))
    return [f"{match[0].strip()!r}: write {list(INSTEAD.values())[int(match.lastgroup[1:])]}" for match in found if match.lastgroup]  # fmt: skip


def sentences(text: str) -> list[str]:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", without_code(text))
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )|\n(?=    )", plain)
    return [sentence for part in paragraphs for sentence in re.split(r"(?<=[.:;?!])\s+|\s[-–—]\s", part)]


def long_sentences(text: Text) -> list[str]:
    """Sentences of prose beyond the limit. A colon or a semicolon ends one here."""
    if text.kind not in {"docstring", "comment", "prose"}:
        return []
    long = [(len(re.findall(r"[\w'/-]+", sentence)), sentence) for sentence in sentences(text.text)]
    return [
        f"{count} words in one sentence: {sentence[:50].strip()!r}..."
        for count, sentence in long
        if count > SENTENCE
    ]


def tables(lines: list[str]) -> set[int]:
    """Numbers of the lines that the formatter leaves as they are: tables with a row a line."""
    found, inside = set(), False
    for number, line in enumerate(lines, 1):
        inside = line.strip() != "# fmt: on" and (inside or line.strip() == "# fmt: off")
        if inside:
            found.add(number)
    return found


def long_lines(path: Path, texts: list[Text]) -> list[int]:
    """Numbers of the lines of prose that are wider than `WIDTH`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    prose: set[int] = set()
    for text in texts:
        if text.kind == "string":  # a line of code, which the formatter judges
            continue
        prose |= set(range(text.line, text.line + text.text.count("\n") + 1))
    prose -= tables(lines)
    wide = [number for number in sorted(prose) if number <= len(lines) and len(lines[number - 1]) > WIDTH]
    return [
        n
        for n in wide
        if not lines[n - 1].lstrip().startswith("|") and max(map(len, lines[n - 1].split())) < WIDTH // 2
    ]


def unknown_documents(text: Text, known: set[str]) -> list[str]:
    """Pages and source files that the text names and the repository does not have. *known*: all paths and their tails."""
    return [
        f"names {name}, which the repository does not have"
        for name in DOCUMENT.findall(re.sub(r"\w+://\S+", "", text.text))
        if name.removeprefix("../") not in known
    ]
