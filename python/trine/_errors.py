"""How things end: a number for each way, and a class for each family of them."""

from __future__ import annotations

import enum
from typing import Dict, Optional, Type

from . import _native


class Status(enum.IntEnum):
    """How something ended, by the numbers of trine.h. A newer library may have more: `Error.status` is an int."""

    OK = 0
    NO_SUCH_SERVICE = 1
    NO_SUCH_OPERATION = 2
    NO_WORKER = 3
    PERMISSION_DENIED = 4
    DEADLINE_EXCEEDED = 5
    CANCELLED = 6
    REPLY_TOO_LARGE = 7
    REQUEST_TOO_LARGE = 8
    WOULD_BLOCK = 9
    BUSY = 10
    WORKER_DIED = 11
    WORKER_ERROR = 12
    MAY_HAVE_RUN = 13
    DIRECTOR_GONE = 14
    INTERRUPTED = 15
    PROTOCOL_MISMATCH = 16
    FORKED = 17
    NOT_BEGUN = 18
    FAULT = 19
    NOT_HELD = 20
    NO_SUCH_RESOURCE = 21
    BAD_RESOURCE = 22
    NO_PART = 23
    TOO_MANY_PARTS = 24
    EINVAL = -1
    EBUSY = -2
    ESYSTEM = -3
    EPANIC = -4
    READY = -5
    DRAINED = -6


class Error(Exception):
    """Something could not be done. The text is the status's name, and a sentence."""

    #: The number of the status: compare it with `Status`.
    status: int
    #: Its name.
    name: str
    #: The sentence; after WORKER_ERROR the worker's own.
    message: str
    #: Whether the operation may have run. False is a promise: it did not, and never will.
    may_have_run: bool
    #: After WORKER_ERROR: the worker's own number.
    code: int
    #: After REPLY_TOO_LARGE: the bytes of room that the result needs. After TOO_MANY_PARTS: how many there would be.
    needed: Optional[int]

    def __init__(self, status: int, message: str, may_have_run: bool = False, code: int = 0,
                 needed: Optional[int] = None) -> None:
        self.status, self.message, self.may_have_run = status, message, may_have_run
        self.code, self.needed = code, needed
        self.name = _native.status_name(status).decode()
        super().__init__(f"{self.name}: {message}")

    def __reduce__(self) -> "tuple[object, ...]":
        return _rebuild, (self.status, self.message, self.may_have_run, self.code, self.needed)


class NotFound(Error, LookupError):
    """Nobody provides that service, or it has no such operation."""


class PermissionDenied(Error, PermissionError):
    """The caller may not do this."""


class DeadlineExceeded(Error, TimeoutError):
    """The call's deadline passed."""


class Cancelled(Error):
    """The call was given up."""


class TooLarge(Error, ValueError):
    """The result does not fit its room, the request does not fit the arena, or there are more parts than there is room
    for. `needed` says what would fit."""


class Busy(Error):
    """Not now: too many calls wait, all slots are in use, or no worker began it however often it was tried."""


class WorkerDied(Error):
    """The worker died after it had begun, or it can't be known whether it ran."""


class WorkerError(Error):
    """The worker answered with an error: `code` and `message` are its own."""


class DirectorGone(Error, ConnectionError):
    """There is no director."""


class Interrupted(Error, InterruptedError):
    """A signal, or a wake, ended the wait."""


class Forked(Error, RuntimeError):
    """The handle belongs to the process that this one was forked from: connect anew after the fork."""


class ResourceError(Error):
    """The resource needs a holder and has none, was not declared, or can't be one."""


class ProtocolError(Error):
    """A peer broke the protocol, or speaks another version of it."""


class InvalidArgument(Error, ValueError):
    """An argument can't be. Nothing was done."""


class ConcurrentUse(Error, RuntimeError):
    """Another thread uses this handle now: one at a time. Nothing was done."""


class SystemFailure(Error, OSError):
    """The operating system refused."""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


class InternalError(Error):
    """A mistake of the library's own. The handle can only be closed."""


class Drained(Error):
    """The worker has served its last request."""


_S = Status
CLASSES: Dict[int, Type[Error]] = {
    _S.NO_SUCH_SERVICE: NotFound, _S.NO_SUCH_OPERATION: NotFound, _S.NO_WORKER: NotFound,
    _S.PERMISSION_DENIED: PermissionDenied, _S.DEADLINE_EXCEEDED: DeadlineExceeded, _S.CANCELLED: Cancelled,
    _S.REPLY_TOO_LARGE: TooLarge, _S.REQUEST_TOO_LARGE: TooLarge, _S.WOULD_BLOCK: Busy, _S.BUSY: Busy,
    _S.NOT_BEGUN: Busy, _S.WORKER_DIED: WorkerDied, _S.MAY_HAVE_RUN: WorkerDied, _S.WORKER_ERROR: WorkerError,
    _S.DIRECTOR_GONE: DirectorGone, _S.INTERRUPTED: Interrupted, _S.PROTOCOL_MISMATCH: ProtocolError,
    _S.FAULT: ProtocolError, _S.FORKED: Forked, _S.NOT_HELD: ResourceError, _S.NO_SUCH_RESOURCE: ResourceError,
    _S.TOO_MANY_PARTS: TooLarge, _S.BAD_RESOURCE: ResourceError, _S.NO_PART: ResourceError, _S.EINVAL: InvalidArgument,
    _S.EBUSY: ConcurrentUse, _S.ESYSTEM: SystemFailure, _S.EPANIC: InternalError, _S.DRAINED: Drained,
}


def _rebuild(status: int, message: str, may_have_run: bool, code: int, needed: Optional[int]) -> Error:
    return CLASSES.get(status, Error)(status, message, may_have_run, code, needed)


def failure(status: int, handle: Optional[int], reply: Optional[_native.Reply] = None) -> Error:
    """What to raise for a status that a function gave."""
    if status == Status.EBUSY:
        message = _native.status_text(status)
    else:
        message = _native.error(handle)
    text = (message or b"").decode(errors="replace")
    if reply is None:
        return _rebuild(status, text, False, 0, None)
    needed = reply.needed if status in (Status.REPLY_TOO_LARGE, Status.TOO_MANY_PARTS) else None
    return _rebuild(status, text, bool(reply.flags & _native.RAN), reply.code, needed)
