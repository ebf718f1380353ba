"""Calling."""

from __future__ import annotations

import enum
import time
from ctypes import byref, c_uint32, c_uint64, c_void_p
from types import TracebackType
from typing import Any, Dict, Iterable, NamedTuple, Optional, Tuple, Type

from . import _native
from ._errors import Error, Status, failure
from ._handle import SLICE_NS, STILL_OPEN, Handle, Key, KeyLike, bus_name, check, nanoseconds, word
from ._memory import IN_PLACE, Buffer, Place, borrow, copy


class Waiting(enum.IntEnum):
    """What a handle does while it waits."""

    #: Yields the CPU for some microseconds, then sleeps. Right for almost all.
    ADAPTIVE = 0
    #: Sleeps at once.
    PARK = 1
    #: Never sleeps, yields in between.
    YIELD = 2
    #: Never sleeps, never yields: for who has a CPU of its own.
    SPIN = 3


class Priority(enum.IntEnum):
    """Which calls go first, among those that wait for a worker. None starves."""

    NORMAL = 0
    HIGH = _native.HIGH
    LOW = _native.LOW


class Hops(NamedTuple):
    """When a traced call passed each hop, in nanoseconds on CLOCK_MONOTONIC."""

    taken_ns: int
    pushed_ns: int
    began_ns: int
    replied_ns: int
    received_ns: int


class _Held:
    """A reply's memory, until the last view of it is gone."""

    __slots__ = ("_handle", "_held")

    def __init__(self, handle: Handle, reply: _native.Reply) -> None:
        self._handle, self._held = handle, reply
        handle.enter(self)

    def __del__(self) -> None:
        reply = self._held
        self._handle.leave(self, lambda pointer: _native.reply_free(pointer, byref(reply)))


class Reply:
    """A result. What is longer than 4 KiB is read where the worker wrote it, and stays there as long as this, or any
    view of it, is alive: a client has one slot for each, 64 where nothing else was chosen."""

    __slots__ = ("data", "worker", "ticket", "hops")

    #: The bytes, read-only.
    data: memoryview
    #: The worker that answered.
    worker: int
    #: The call.
    ticket: int
    #: When it passed each hop, if it was traced.
    hops: Optional[Hops]

    def __init__(self, handle: Handle, reply: _native.Reply) -> None:
        size = reply.len
        self.worker, self.ticket = reply.worker, reply.ticket
        self.hops = (Hops(reply.taken_ns, reply.pushed_ns, reply.began_ns, reply.replied_ns, reply.received_ns)
                     if reply.taken_ns else None)
        if size > IN_PLACE:
            self.data = Place(reply.data, size, lambda: _Held(handle, reply)).view(writable=False)
        else:
            self.data = memoryview(copy(reply.data, size))
            if reply.held:
                _native.reply_free(handle.pointer, byref(reply))

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def __buffer__(self, flags: int) -> memoryview:
        return self.data

    def __eq__(self, other: object) -> bool:
        return self.data == (other.data if isinstance(other, Reply) else other)

    __hash__ = None  # type: ignore[assignment]

    def text(self) -> str:
        """The bytes as UTF-8."""
        return str(self.data, "utf-8")

    def array(self, dtype: Any = "uint8", shape: Optional[Any] = None) -> Any:
        """A NumPy array of the bytes, read-only. Nothing is copied."""
        import numpy

        array = numpy.frombuffer(self.data, dtype)
        return array if shape is None else array.reshape(shape)

    def __repr__(self) -> str:
        return f"<trine.Reply of {len(self.data)} bytes>"


class Pending:
    """A call that is under way; given up when it is garbage, or by `cancel`."""

    __slots__ = ("_handle", "ticket")

    def __init__(self, handle: Handle, ticket: int) -> None:
        self._handle, self.ticket = handle, ticket
        handle.tickets.add(ticket)

    def wait(self, timeout: Optional[float] = None) -> Optional[Reply]:
        """The result; None if it did not come in time. Without a timeout it ends by the call's deadline, and is never
        None. Ctrl-C ends it by KeyboardInterrupt; the call is still open then."""
        if self.ticket not in self._handle.tickets:
            raise ValueError("its end was said already, or it was given up")
        reply, handle = _native.new_reply(), self._handle.get()
        end = None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        if end is not None and timeout == 0:
            status = _native.poll(handle, self.ticket, byref(reply))
        else:
            status = _native.wait(handle, self.ticket, _slice(end), byref(reply))
        while status in STILL_OPEN:
            if end is not None and time.monotonic_ns() >= end:
                return None
            status = _native.wait(self._handle.get(), self.ticket, _slice(end), byref(reply))
        if status < 0:
            raise failure(status, handle)  # nothing was done
        self._ended()
        return _reply(self._handle, status, reply)

    def poll(self) -> Optional[Reply]:
        """The result, if it is there. Never blocks."""
        return self.wait(0)

    def _ended(self) -> int:
        ticket, self.ticket = self.ticket, 0
        self._handle.tickets.discard(ticket)
        return ticket

    def cancel(self) -> None:
        """Gives it up. A worker may still run it, and can see that nobody waits."""
        ticket = self._ended()
        if ticket and not self._handle.is_closed:
            self._handle.leave(self, lambda pointer: _native.cancel(pointer, ticket))

    def __del__(self) -> None:
        if self.ticket:
            self.cancel()


class Part(NamedTuple):
    """One part of a scatter, ended: one worker's answer, or what has become of it."""

    #: What it is about: the keys that its worker has, in the order in which they were named; none in a scatter to all.
    keys: Tuple[Key, ...]
    #: The answer, if there is one.
    reply: Optional[Reply]
    #: Else why there is none.
    error: Optional[Error]

    def result(self) -> Reply:
        """The answer, or the error raised."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.reply


class Parts:
    """A scatter that is under way: iterates over its parts, as they come. What is open is given up when it is garbage."""

    __slots__ = ("_handle", "_keys", "ticket", "count")

    def __init__(self, handle: Handle, ticket: int, keys: Tuple[Key, ...]) -> None:
        self._handle, self._keys, self.ticket = handle, keys, ticket
        #: How many there are in all: known from the first one on.
        self.count: Optional[int] = None if ticket else 0
        if ticket:
            handle.tickets.add(ticket)

    def wait(self, timeout: Optional[float] = None) -> Optional[Part]:
        """The next part; None if none came in time, or if there are no more: see `is_done`."""
        reply, end = _native.new_reply(), None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        while not self.is_done:
            handle = self._handle.get()
            status = _native.wait(handle, self.ticket, _slice(end), byref(reply))
            if reply.parts:
                self.count = reply.parts
            if status not in STILL_OPEN:
                return self._part(status, reply, handle)
            if end is not None and time.monotonic_ns() >= end:
                return None
        return None

    def _part(self, status: int, reply: _native.Reply, handle: int) -> Part:
        if status < 0:
            raise failure(status, handle)
        if reply.flags & _native.LAST:
            self._handle.tickets.discard(self.ticket)
            self.ticket = 0
        keys = tuple(key for place, key in enumerate(self._keys) if reply.key_mask >> place & 1)
        if status == 0:
            return Part(keys, Reply(self._handle, reply), None)
        return Part(keys, None, failure(status, handle, reply))

    @property
    def is_done(self) -> bool:
        """Whether there are no more."""
        return self.ticket == 0

    def __iter__(self) -> "Parts":
        return self

    def __next__(self) -> Part:
        part = self.wait()
        if part is None:
            raise StopIteration
        return part

    def cancel(self) -> None:
        """Gives up what is open."""
        ticket, self.ticket = self.ticket, 0
        self._handle.tickets.discard(ticket)
        if ticket and not self._handle.is_closed:
            self._handle.leave(self, lambda pointer: _native.cancel(pointer, ticket))

    def __del__(self) -> None:
        self.cancel()


def _slice(end: Optional[int]) -> int:
    """How long C may wait at a time, so that Python's signal handlers run."""
    return SLICE_NS if end is None else max(0, min(SLICE_NS, end - time.monotonic_ns()))


def _reply(handle: Handle, status: int, reply: _native.Reply) -> Reply:
    if status == 0:
        return Reply(handle, reply)
    raise failure(status, handle.pointer, reply)


class Loan:
    """Memory that the worker will read, to build a request in: nothing of it is ever copied."""

    __slots__ = ("_client", "_lent", "_place", "size")

    def __init__(self, client: "Client", start: int, size: int) -> None:
        self._client, self.size = client, size
        lent = _Lent(client._handle, start)
        self._lent: Optional[_Lent] = lent
        self._place = Place(start, size, lambda: lent) if size else None

    @property
    def data(self) -> memoryview:
        """The bytes, to be written. They hold what an earlier request left there."""
        if self._lent is None:
            raise ValueError("it was sent")
        return memoryview(bytearray()) if self._place is None else self._place.view(writable=True)

    def array(self, dtype: Any = "uint8", shape: Optional[Any] = None) -> Any:
        """A NumPy array of the bytes, to be written."""
        import numpy

        array = numpy.frombuffer(self.data, dtype)
        return array if shape is None else array.reshape(shape)

    def submit(self, size: Optional[int] = None, **more: Any) -> Pending:
        """Sends its first `size` bytes, else all. It is gone then, and nothing may look at it any more: BufferError,
        if something does (a slice, an array), since the memory is the worker's to read now."""
        lent, client, ticket = self._lent, self._client, c_uint64()
        if lent is None:
            raise ValueError("it was sent")
        args, handle = client._args(more), client._handle.get()
        if self._place is not None and self._place.is_viewed():
            raise BufferError("something still looks at the loan: let go of its views and arrays first")
        status = _native.send_loan(handle, lent.start, self.size if size is None else size, args, 0, byref(ticket))
        if status not in (Status.EINVAL, Status.EBUSY):
            lent.sent, self._lent, self._place = True, None, None
        check(status, handle)
        return Pending(client._handle, ticket.value)

    def call(self, size: Optional[int] = None, **more: Any) -> Reply:
        """Sends it, and waits for the result."""
        reply = self.submit(size, **more).wait()
        assert reply is not None
        return reply


class _Lent:
    """A loan's memory, until it is sent, or nothing looks at it any more."""

    __slots__ = ("_handle", "start", "sent")

    def __init__(self, handle: Handle, start: int) -> None:
        self._handle, self.start, self.sent = handle, start, False
        handle.enter(self)

    def __del__(self) -> None:
        start, sent = self.start, self.sent
        self._handle.leave(self, lambda pointer: 0 if sent else _native.loan_free(pointer, start))


class Client:
    """A client of a bus. Used by one thread at a time: `ConcurrentUse`, where two meet. After a fork the child connects
    anew: `Forked`, if it doesn't.

    `slots`: calls that can be open at a time, a power of two. `reply_capacity`: bytes of reply that every call has room
    for without asking. The arenas: bytes for larger requests and replies. `director_gone`: seconds that calls look for
    a director. What is 0 is the library's default."""

    def __init__(self, bus: Optional[Any] = None, *, slots: int = 0, reply_capacity: int = 0, request_arena: int = 0,
                 reply_arena: int = 0, director_gone: float = 0, waiting: Waiting = Waiting.ADAPTIVE) -> None:
        options = _native.Options(
            waiting=waiting, slots=slots, reply_capacity=reply_capacity, request_arena=request_arena,
            reply_arena=reply_arena, director_gone_ns=nanoseconds(director_gone))
        pointer = c_void_p()
        check(_native.connect(bus_name(bus), byref(options), byref(pointer)), None)
        assert pointer.value is not None
        self._handle = Handle(pointer.value, _native.close, _native.cancel)
        self._routes: Dict[Tuple[str, str], int] = {}
        self._keys: Dict[str, Key] = {}

    def call(self, service: str, operation: str, data: Buffer = b"", **more: Any) -> Reply:
        """Calls, and waits for the result. `data` is anything with a contiguous buffer, or a str; it is copied once,
        into shared memory. Raises an `Error` if there is no result.

        More can be said, here and in `submit`, `post`, `Loan.submit`: `deadline`, seconds from now until the call ends
        in any case (30); `room`, bytes of reply that there has to be room for; `key`, the resource that it is about (a
        number, a name, a `Key`); `priority`; `traced`."""
        reply = self.submit(service, operation, data, **more).wait()
        assert reply is not None
        return reply

    def submit(self, service: str, operation: str, data: Buffer = b"", *, timeout: Optional[float] = None,
               **more: Any) -> Pending:
        """Sends a request, and returns at once, but for a free slot and for room, which it waits for up to `timeout`
        seconds: then it raises `Busy`. Arguments as for `call`."""
        route, ticket, args = self.route(service, operation), c_uint64(), self._args(more)
        borrowed = borrow(data)
        try:
            self._send(timeout, lambda handle, function, wait_ns: function(
                handle, route, borrowed.address, borrowed.size, args, wait_ns, byref(ticket)),
                _native.submit_now, _native.submit)
        finally:
            borrowed.release()
        return Pending(self._handle, ticket.value)

    def post(self, service: str, operation: str, data: Buffer = b"", *, timeout: Optional[float] = None,
             **more: Any) -> None:
        """Sends a request that has no reply. It runs once at most."""
        route, args, borrowed = self.route(service, operation), self._args(more), borrow(data)
        try:
            self._send(timeout, lambda handle, function, wait_ns: function(
                handle, route, borrowed.address, borrowed.size, args, wait_ns), _native.post_now, _native.post)
        finally:
            borrowed.release()

    def _send(self, timeout: Optional[float], send: Any, now: Any, later: Any) -> None:
        """Without waiting, and then, where that can't be, slice by slice."""
        handle = self._handle.get()
        status = send(handle, now, 0)
        if status == 0:
            return
        end = None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        while status in STILL_OPEN:
            if end is not None and time.monotonic_ns() >= end:
                break
            status = send(self._handle.get(), later, _slice(end))
        check(status, handle)

    def scatter(self, service: str, operation: str, data: Buffer = b"", keys: Iterable[KeyLike] = (), *,
                timeout: Optional[float] = None, **more: Any) -> Parts:
        """Sends a request to the workers that have these keys, up to 64: a part for each worker, about those of the keys
        that it has. Each part ends as a call does. No keys: no parts."""
        route, args, borrowed, ticket = self.route(service, operation), self._args(more), borrow(data), c_uint64()
        about = tuple(self._key(key) for key in keys)
        native = (_native.Key * len(about))(*(key.native() for key in about))
        try:
            self._send(timeout, lambda handle, function, wait_ns: function(
                handle, route, native, len(about), borrowed.address, borrowed.size, args, wait_ns, byref(ticket)),
                _native.scatter_now, _native.scatter)
        finally:
            borrowed.release()
        return Parts(self._handle, ticket.value, about)

    def scatter_all(self, service: str, operation: str, data: Buffer = b"", *, most: int = 0,
                    timeout: Optional[float] = None, **more: Any) -> Parts:
        """Sends a request to all workers that provide the operation: a part for each, `most` of them at most (0: as many
        as there are free slots). Where there would be more, nobody gets anything, and the only part ends
        TOO_MANY_PARTS."""
        route, args, borrowed, ticket = self.route(service, operation), self._args(more), borrow(data), c_uint64()
        try:
            self._send(timeout, lambda handle, function, wait_ns: function(
                handle, route, most, borrowed.address, borrowed.size, args, wait_ns, byref(ticket)),
                _native.scatter_all_now, _native.scatter_all)
        finally:
            borrowed.release()
        return Parts(self._handle, ticket.value, ())

    def _key(self, key: KeyLike) -> Key:
        if isinstance(key, str):
            return self.key(key)
        return key if isinstance(key, Key) else Key(word(key))

    def loan(self, service: str, operation: str, size: int, *, timeout: Optional[float] = None) -> Loan:
        """Memory in which to build a request of `size` bytes: see `Loan`."""
        route, start = self.route(service, operation), c_void_p()
        self._send(timeout, lambda handle, function, wait_ns: function(handle, route, size, wait_ns, byref(start)),
                   _native.loan, _native.loan)
        return Loan(self, start.value or 0, size)

    def wait_any(self, timeout: Optional[float] = None) -> Optional[Tuple[int, Reply]]:
        """Whichever open call ends first, as its ticket and its result; None: none ended in time, or none is open."""
        reply = _native.new_reply()
        end = None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        while True:
            wait_ns = _slice(end)
            before_ns = time.monotonic_ns()
            status = _native.wait(self._handle.get(), _native.ANY, wait_ns, byref(reply))
            if status == Status.WOULD_BLOCK and time.monotonic_ns() - before_ns < wait_ns:
                return None  # at once: none is open
            if status not in STILL_OPEN:
                self._handle.tickets.discard(reply.ticket)
                return reply.ticket, _reply(self._handle, status, reply)
            if end is not None and time.monotonic_ns() >= end:
                return None

    def route(self, service: str, operation: str) -> int:
        """Finds an operation, which a call does by itself. Once for each, by a round trip on a socket."""
        route = self._routes.get((service, operation))
        if route is None:
            found, handle = c_uint32(), self._handle.get()
            check(_native.route_of(handle, service.encode(), operation.encode(), byref(found)), handle)
            route = self._routes[service, operation] = found.value
        return route

    def key(self, name: str) -> Key:
        """The key of a resource's name. Once for each, by a round trip on a socket."""
        key = self._keys.get(name)
        if key is None:
            found, handle = _native.Key(), self._handle.get()
            check(_native.key_of(handle, name.encode(), byref(found)), handle)
            key = self._keys[name] = Key(found.word, True)
        return key

    def _args(self, more: Dict[str, Any]) -> Any:
        if not more:
            return None
        return byref(self._spelt_out(**more))

    def _spelt_out(self, *, deadline: Optional[float] = None, room: int = 0, key: Optional[KeyLike] = None,
                   priority: Priority = Priority.NORMAL, traced: bool = False) -> _native.CallArgs:
        args = _native.CallArgs(reply_capacity=room, flags=priority | (_native.TRACED if traced else 0))
        if deadline is not None:
            args.deadline_ns = max(1, nanoseconds(deadline))
        if key is not None:
            args.key = self._key(key).native()
        return args

    def fileno(self) -> int:
        """The descriptor for an event loop: see the head of trine.h. `trine.aio` does all of it for asyncio."""
        fd: int = _native.client_fd(self._handle.get())
        if fd < 0:
            raise failure(fd, self._handle.pointer)
        return fd

    def arm(self) -> bool:
        """Before the loop sleeps. Whether to sleep now: if not, there is something to do."""
        return _armed(_native.client_arm(self._handle.get()), self._handle)

    def disarm(self) -> None:
        """After the loop has slept."""
        check(_native.client_disarm(self._handle.get()), self._handle.pointer)

    def close(self) -> None:
        """Gives up the open calls. Waits up to a second for one-way calls to be taken over. What replies lie in stays
        as long as anything looks at it."""
        self._handle.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


def _armed(status: int, handle: Handle) -> bool:
    if status != Status.READY:
        check(status, handle.pointer)
    return status == 0


def connect(bus: Optional[Any] = None, **options: Any) -> Client:
    """Connects a client to a bus: the default one, one of a name, or the one in a folder (a path with a slash in it, or
    a `Path`). Options as for `Client`."""
    return Client(bus, **options)


__all__ = ["Client", "Hops", "Loan", "Part", "Parts", "Pending", "Priority", "Reply", "Waiting", "connect"]
