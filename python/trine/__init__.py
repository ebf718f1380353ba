"""Calls between processes of one Linux host, through shared memory, with a broker in between.

    with trine.connect() as client:
        reply = client.call("text", "upper", b"three messages")

    worker = trine.Worker()

    @worker.operation("text")
    def upper(request):
        return bytes(request.data).upper()

    worker.serve()

`trine.aio` is the same for asyncio. docs/python.md is the way in.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from . import _native
from ._client import Client, Hops, Loan, Part, Parts, Pending, Priority, Reply, Waiting, connect
from ._director import Director
from ._errors import (Busy, Cancelled, ConcurrentUse, DeadlineExceeded, DirectorGone, Drained, Error, Forked,
                      InternalError, Interrupted, InvalidArgument, NotFound, PermissionDenied, ProtocolError,
                      ResourceError, Status, SystemFailure, TooLarge, WorkerDied, WorkerError, failure)
from ._handle import Key, Share
from ._worker import LATER, Event, EventKind, Failure, Policy, Request, Unheld, Worker

#: The library's version and the protocol's: (0, 1, 0), 1.
version = (_native.version() >> 16, _native.version() >> 8 & 0xFF, _native.version() & 0xFF)
protocol: int = _native.protocol()

_listening: Any = None


def log_to(listener: Optional[Callable[[int, str, str], Any]], level: int = 3) -> None:
    """Has what the library has to say told to `listener`: the level (1 error, 2 warning, 3 information, 4 debugging),
    the place in the library, and the text; from whichever thread it arises in. None ends that."""
    global _listening

    def say(_: Any, level: int, place: bytes, text: bytes) -> None:
        assert listener is not None
        listener(level, place.decode(), text.decode(errors="replace"))

    callback = _native.LogCallback(say) if listener else _native.LogCallback()
    status = _native.log(level, callback, None)
    if status != 0:
        raise failure(status, None)
    _listening = callback


__all__ = [
    "LATER", "Busy", "Cancelled", "Client", "ConcurrentUse", "DeadlineExceeded", "Director", "DirectorGone", "Drained",
    "Error", "Event", "EventKind", "Failure", "Forked", "Hops", "InternalError", "Interrupted", "InvalidArgument", "Key",
    "Loan", "NotFound", "Part", "Parts", "Pending", "PermissionDenied", "Policy", "Priority", "ProtocolError", "Reply", "Request",
    "ResourceError", "Share", "Status", "SystemFailure", "TooLarge", "Unheld", "Waiting", "Worker", "WorkerDied",
    "WorkerError", "connect", "log_to", "protocol", "version",
]
