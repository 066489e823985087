# SPDX-License-Identifier: Apache-2.0
"""Downloads of small files into memory, with a bound on size and time, resumed where a connection broke.

A resumed download asks for the rest only, as long as the server says that the file is still the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, PycmError, UnavailableError, shorten
from pycm.waiting import apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.http.client import Response
    from pycm.http.rules import Address

log = logging.getLogger("pycm.http")

#: Seconds for a whole download, pauses included; and for one attempt, which may hang in name resolution.
TOTAL, ATTEMPT = 300.0, 420.0
PIECE = 64 << 10
#: Headers that identify the version of a file.
VALIDATORS = ("ETag", "Last-Modified")


class WebDownloads:
    """Implements `pycm.ports.Downloads`. *private*: files may be at addresses that are not public."""

    def __init__(self, *, private: bool = True) -> None:
        self._private = private

    async def fetch(self, url: str, limit: int) -> bytes:
        """Each attempt runs in a thread of its own, for which the end of the agent does not wait."""
        from pycm.http.rules import parse_address, resume  # only for those who download

        address = parse_address(url)
        download = Download(limit, private=self._private)
        try:
            return await resume(
                lambda: apart(f"download of {url}", lambda: download.attempt(address), ATTEMPT),
                lambda: download.received,
                total=TOTAL,
            )
        except asyncio.TimeoutError:
            raise UnavailableError(f"{address} was not read within {ATTEMPT:g} s") from None
        except (PycmError, asyncio.CancelledError):
            raise
        except BaseException as error:  # from the thread; a caller waits for the result
            log.exception("download of %s: unexpected error", address)
            raise OperationFailedError(
                f"{address} cannot be read: unexpected {type(error).__name__}"
            ) from None
        finally:
            download.is_abandoned = True


class Download:
    """One file, in several attempts. `is_abandoned`: set it to end the running attempt at its next step."""

    def __init__(
        self, limit: int, *, private: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_abandoned = False
        self._limit = limit
        self._private = private
        self._clock = clock
        self._until = clock() + TOTAL
        self._data = b""
        self._size: int | None = None
        self._validator = ""

    @property
    def received(self) -> int:
        return len(self._data)

    def attempt(self, address: Address) -> bytes:
        """Return the whole file.

        UnavailableError if another attempt may complete it, OperationFailedError otherwise.
        """
        from pycm.http import rules
        from pycm.http.client import Http  # imports http.client and ssl

        with contextlib.closing(Http(private=self._private).get(address, self._headers())) as response:
            if response.status in rules.PASSING:
                after = rules.read_retry_after(response.headers.get("Retry-After"))
                text = f"{address} answers {response.status}"
                if after is not None and after > rules.LONGEST_WAIT:
                    raise OperationFailedError(f"{text}, and asks to wait {after:g} s")
                raise rules.TryLaterError(text, after)
            self._begin(response)
            self._read(response)
        if self._size is not None and len(self._data) < self._size:
            raise UnavailableError(f"{address} cut the connection")
        return self._data

    def _headers(self) -> dict[str, str]:
        from pycm.http.rules import make_range_header

        if not self._data or not self._validator or self._size is None:
            return {}
        return {**make_range_header(len(self._data)), "If-Range": self._validator}

    def _begin(self, response: Response) -> None:
        """Keep the received data if the answer is the rest of it; start again otherwise."""
        from pycm.http.rules import find_start

        if response.status == 206 and self._size is not None:
            placed = {"Content-Range": response.headers.get("Content-Range") or ""}
            find_start(206, placed, len(self._data), self._size)
            return
        if response.status == 416 and self._data:  # another file by now, and a shorter one
            self._data = b""
            raise UnavailableError(f"{response.address} changed during the download")
        if not 200 <= response.status < 300 or response.status == 206:
            raise OperationFailedError(f"{response.address} answers {response.status}")
        self._data = b""
        self._size = None if response.encoded else response.sent
        self._validator = next((found for name in VALIDATORS if (found := response.headers.get(name))), "")
        if self._validator.startswith("W/"):  # a weak validator does not identify the bytes
            self._validator = ""
        if self._size is not None and self._size > self._limit:
            raise OperationFailedError(
                f"{response.address} has {shorten(self._size)} bytes, more than the {self._limit} that are allowed"
            )

    def _read(self, response: Response) -> None:
        while part := response.read(PIECE):
            self._data += part
            if len(self._data) > self._limit:
                raise OperationFailedError(
                    f"{response.address} has more than the {self._limit} bytes that are allowed"
                )
            if self.is_abandoned:
                raise UnavailableError(f"{response.address}: download abandoned")
            if self._clock() > self._until:  # a server that sends a byte now and then
                raise UnavailableError(f"{response.address} did not finish its answer within {TOTAL:g} s")
