# SPDX-License-Identifier: Apache-2.0
"""A small file into memory: bounded in size and time, and taken up where a connection broke off.

What answers late or is cut is asked again for the rest, as long as the server says that it is still the same file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, PycmError, UnavailableError, shorten
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.http.client import Response
    from pycm.http.rules import Address

log = logging.getLogger("pycm.http")

#: Seconds for a whole download, pauses included; and for its thread, which may hang in name resolution.
TOTAL, THREAD = 300.0, 420.0
PIECE = 64 << 10
#: What has come so far belongs to the file that had one of these.
VALIDATORS = ("ETag", "Last-Modified")


class WebDownloads:
    """Implements `pycm.ports.Downloads`. *private*: files may lie at addresses that are not public."""

    def __init__(self, *, private: bool = True) -> None:
        self._private = private

    async def fetch(self, url: str, limit: int) -> bytes:
        """In a thread of its own, which the agent's end does not wait for."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()
        download = Download(limit, private=self._private)

        def run() -> None:
            result = _outcome(download, url)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_finish, done, result)

        threading.Thread(target=run, name="download", daemon=True).start()
        try:
            return await within(THREAD, done)
        except asyncio.TimeoutError:
            raise UnavailableError(f"{_shown(url)} was not read within {THREAD:g} s") from None
        finally:
            download.given_up.set()


def _outcome(download: Download, url: str) -> bytes | PycmError:
    """Whatever happens in the thread: somebody waits for it."""
    try:
        return download.run(url)
    except PycmError as error:
        return error
    except BaseException as error:
        log.exception("a bug in the download of %s", _shown(url))
        return OperationFailedError(f"{_shown(url)} cannot be read: unexpected {type(error).__name__}")


def _shown(url: str) -> str:
    """Without the query, in which signed addresses carry secrets."""
    return shorten(url.partition("?")[0])


def _finish(done: asyncio.Future[bytes], result: bytes | PycmError) -> None:
    if done.done():  # nobody waits any more
        return
    if isinstance(result, PycmError):
        done.set_exception(result)
    else:
        done.set_result(result)


class Download:
    """One file. `given_up`: set it to end the download at its next step."""

    def __init__(
        self, limit: int, clock: Callable[[], float] = time.monotonic, *, private: bool = True
    ) -> None:
        self.given_up = threading.Event()
        self._limit = limit
        self._private = private
        self._clock = clock
        self._data = b""
        self._size: int | None = None
        self._validator = ""
        self._until = float("inf")

    def run(self, url: str) -> bytes:
        """Errors: OperationFailedError; UnavailableError if it could not be had in time or after some attempts."""
        # http.client and ssl are only paid for by those who download
        from pycm.http import rules
        from pycm.http.rules import parse_address

        address = parse_address(url)
        self._until = self._clock() + TOTAL
        fruitless = 0
        while True:
            before = len(self._data)
            wanted_pause: float | None = None
            try:
                done, wanted_pause = self._attempt(address)
                if done:
                    return self._data
                failure = UnavailableError(f"{address} cut the connection")
            except UnavailableError as error:
                failure = error
            fruitless = 1 if len(self._data) > before else fruitless + 1
            pause = rules.delay(fruitless, wanted_pause)
            too_long = pause > rules.LONGEST_WAIT or self._clock() + pause > self._until
            if fruitless >= rules.ATTEMPTS or too_long or self.given_up.wait(pause):
                raise failure

    def _attempt(self, address: Address) -> tuple[bool, float | None]:
        """(whole, seconds that the server wants to be left alone)."""
        from pycm.http import rules
        from pycm.http.client import Http

        with contextlib.closing(Http(private=self._private).get(address, self._headers())) as response:
            if response.status in rules.PASSING:
                error = UnavailableError(f"{address} answers {response.status}")
                asked = rules.retry_after(response.headers.get("Retry-After"))
                if asked is not None and asked > rules.LONGEST_WAIT:
                    raise OperationFailedError(f"{error}, and asks to come back in {asked:g} s")
                if asked is None:
                    raise error
                return False, asked
            self._begin(response)
            return self._read(response), None

    def _headers(self) -> dict[str, str]:
        from pycm.http.rules import range_header

        if not self._data or not self._validator or self._size is None:
            return {}
        return {**range_header(len(self._data)), "If-Range": self._validator}

    def _begin(self, response: Response) -> None:
        """Keep what has come if the answer is the rest of it; else begin anew."""
        from pycm.http.rules import begins_at

        if response.status == 206 and self._size is not None:
            placed = {"Content-Range": response.headers.get("Content-Range") or ""}
            begins_at(206, placed, len(self._data), self._size)
            return
        if response.status == 416 and self._data:  # another file by now, and shorter
            self._data = b""
            raise UnavailableError(f"{response.address} changed while it was read")
        if not 200 <= response.status < 300 or response.status == 206:
            raise OperationFailedError(f"{response.address} answers {response.status}")
        self._data = b""
        self._size = None if response.encoded else response.sent
        self._validator = next((found for name in VALIDATORS if (found := response.headers.get(name))), "")
        if self._validator.startswith("W/"):  # says nothing of the bytes
            self._validator = ""
        if self._size is not None and self._size > self._limit:
            raise OperationFailedError(
                f"{response.address} has {shorten(self._size)} bytes, {self._limit} are allowed"
            )

    def _read(self, response: Response) -> bool:
        """True if the file is whole."""
        while part := response.read(PIECE):
            self._data += part
            if len(self._data) > self._limit:
                raise OperationFailedError(
                    f"{response.address} has more than the {self._limit} bytes that are allowed"
                )
            if self.given_up.is_set():
                raise UnavailableError(f"{response.address}: given up")
            if self._clock() > self._until:  # one that sends a byte now and then
                raise UnavailableError(f"{response.address} did not finish its answer within {TOTAL:g} s")
        return self._size is None or len(self._data) >= self._size
