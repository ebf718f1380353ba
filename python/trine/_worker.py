"""Serving."""

from __future__ import annotations

import enum
import logging
import math
import time
import traceback
from ctypes import byref, c_char_p, c_size_t, c_uint32, c_void_p
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Type, Union

from . import _native
from ._client import Waiting, _armed, _slice
from ._errors import Drained, Interrupted, Status, failure
from ._handle import STILL_OPEN, Handle, Key, ResourceLike, bus_name, check, nanoseconds, resource, resource_of, resources
from ._memory import IN_PLACE, Buffer, Place, borrow, copy

_log = logging.getLogger("trine")


class Policy(enum.IntEnum):
    """How the director chooses among the workers that may do a call."""

    #: Join the shortest of bounded queues: the best tail where calls take unevenly long.
    JBSQ = 1
    #: Each in its turn.
    ROUND_ROBIN = 2
    #: Calls on the same key go to the same worker, unless it has far more to do.
    AFFINITY = 3
    #: Whoever has the fewest calls in its hands.
    LEAST_OUTSTANDING = 4


class Unheld(enum.IntEnum):
    """What becomes of a call on a resource that needs a holder and has none."""

    #: It waits for one.
    WAIT = 1
    #: It ends NOT_HELD, not run.
    ERROR = 2
    #: The worker with the fewest calls in its hands is made the holder.
    OFFER = 3


class EventKind(enum.IntEnum):
    """What a worker is told."""

    #: It holds the exclusive right from now on.
    GAINED = 1
    #: It holds it no more, once the listener has returned.
    LOST = 2
    #: It takes no new work.
    DRAINING = 3


class Event(NamedTuple):
    """What a worker is told, between its requests."""

    kind: int
    service: Optional[str]
    #: None of a LOST is all of it: the worker has withdrawn the service.
    resource: ResourceLike


class Failure(Exception):
    """Raised by a handler: the call ends with WORKER_ERROR, this number and this message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class _Later:
    """See LATER."""

    def __repr__(self) -> str:
        return "trine.LATER"


#: Returned by a handler that keeps its request, to answer it later.
LATER = _Later()


class _Open:
    """The duty to answer a request: whoever drops it answers WORKER_ERROR, once nothing looks at the request."""

    __slots__ = ("handle", "number", "answered")

    def __init__(self, handle: Handle, number: int) -> None:
        self.handle, self.number, self.answered = handle, number, False

    def __del__(self) -> None:
        if not self.answered:
            number = self.number
            self.handle.leave(self, lambda pointer: _native.fail(
                pointer, number, 0, b"the worker dropped the request"))


class _Seen:
    """Something looks at a request: it stays open, and its worker too."""

    __slots__ = ("_open",)

    def __init__(self, request: _Open) -> None:
        self._open = request
        request.handle.enter(self)

    def __del__(self) -> None:
        self._open.handle.leave(self)


class Request:
    """A request: the right, and the duty, to answer it once.

    `data` and `out` lie in the client's memory, and are the client's again when it is answered: so nothing may look at
    them then. BufferError, if something does, and the request is still open."""

    __slots__ = ("service", "operation", "_incoming", "_open", "_data", "_out")

    def __init__(self, handle: Handle, incoming: _native.Incoming, name: Tuple[str, str]) -> None:
        self.service, self.operation = name
        held = _Open(handle, incoming.request)
        self._incoming, self._open = incoming, held
        self._out: Optional[Place] = None
        self._data: Union[bytes, Place]
        if incoming.len > IN_PLACE:
            self._data = Place(incoming.data, incoming.len, lambda: _Seen(held))
        else:
            self._data = copy(incoming.data, incoming.len)

    @property
    def data(self) -> memoryview:
        """The payload, read-only; what is longer than 4 KiB where the client built it. A client that is not trusted
        could still change it there: copy, then check."""
        self._must_be_open()
        return memoryview(self._data) if isinstance(self._data, bytes) else self._data.view(writable=False)

    @property
    def out(self) -> memoryview:
        """Where the reply may be built in place, `capacity` bytes of it. What a handler returns that begins here is
        sent as it is. Empty where the client has given no such room."""
        self._must_be_open()
        if self._out is None:
            if not self._incoming.out or not self._incoming.out_capacity:
                return memoryview(bytearray())
            held = self._open
            self._out = Place(self._incoming.out, self._incoming.out_capacity, lambda: _Seen(held))
        return self._out.view(writable=True)

    def array(self, dtype: Any = "uint8", shape: Optional[Any] = None) -> Any:
        """A NumPy array of the payload, read-only. What is longer than 4 KiB is not copied."""
        import numpy

        array = numpy.frombuffer(self.data, dtype)
        return array if shape is None else array.reshape(shape)

    def out_array(self, dtype: Any = "uint8", shape: Optional[Any] = None) -> Any:
        """A NumPy array in the client's memory, to be filled and returned: the reply, without a copy. Of `shape`, or of
        all the room that there is."""
        import numpy

        dtype = numpy.dtype(dtype)
        count = self.capacity // dtype.itemsize if shape is None else int(numpy.prod(shape))
        if count * dtype.itemsize > len(self.out):
            raise Failure(int(Status.REPLY_TOO_LARGE), f"a reply of {count * dtype.itemsize} bytes needs more room")
        array = numpy.frombuffer(self.out, dtype, count)
        return array if shape is None else array.reshape(shape)

    @property
    def capacity(self) -> int:
        """How many bytes the reply may have."""
        return int(self._incoming.out_capacity)

    @property
    def key(self) -> Optional[Key]:
        """The resource that it is about."""
        return Key.of(self._incoming.key)

    @property
    def is_part(self) -> bool:
        """Whether others have a part of it, too."""
        return bool(self._incoming.flags & _native.PART)

    @property
    def keys(self) -> List[Key]:
        """All that it is about: of a part, what this worker has of the caller's list."""
        self._must_be_open()
        about, count, handle = (_native.Key * 64)(), c_size_t(), self._open.handle.get()
        check(_native.request_keys(handle, self._open.number, about, len(about), byref(count)), handle)
        return [Key(key.word, key.kind == _native.NAME) for key in about[:count.value]]

    @property
    def caller(self) -> Tuple[int, int, int]:
        """uid, gid, pid: as the kernel said when the client connected."""
        return self._incoming.uid, self._incoming.gid, self._incoming.pid

    @property
    def seconds_left(self) -> float:
        """Until its caller stops waiting."""
        at = self._incoming.deadline_ns
        return (at - time.monotonic_ns()) / 1e9 if at else float("inf")

    @property
    def is_cancelled(self) -> bool:
        """Whether its caller has given it up, or is gone: no use going on."""
        if self._open.answered:
            return True
        given_up = _native.is_cancelled(self._open.handle.get(), self._open.number)
        if given_up < 0:
            raise failure(given_up, self._open.handle.pointer)
        return bool(given_up)

    @property
    def is_answered(self) -> bool:
        return self._open.answered

    def reply(self, data: Buffer = b"") -> None:
        """Answers. The bytes are copied once, to where the client reads them. To answer with what was built in `out`,
        see `reply_built`."""
        borrowed = borrow(b"" if data is None else data)
        try:
            self._answer(borrowed.address, borrowed.size)
        finally:
            borrowed.release()

    def reply_built(self, size: int) -> None:
        """Answers with the first `size` bytes of `out`."""
        if not 0 <= size <= self.capacity:
            raise ValueError(f"there are {self.capacity} bytes of room, not {size}")
        self._answer(self._incoming.out, size)

    def fail(self, code: int, message: str) -> None:
        """Answers with WORKER_ERROR, a number of your own, and a message (1 KiB; what is longer is cut)."""
        self._let_go()
        handle = self._open.handle.get()
        text = message.replace("\\0", " ").encode()
        self._end(_native.fail(handle, self._open.number, code & 0xFFFFFFFF, text), handle)

    def _finish(self, result: List[Any]) -> None:
        """Answers with what a handler has returned; takes it out of the list, as the last one that looks at it."""
        borrowed = borrow(b"" if result[0] is None else result[0])
        if self._is_in_place(borrowed.address):
            address, size = borrowed.address, borrowed.size
            borrowed.release()
            result.clear()
            del borrowed
            self._answer(address, size)
        else:
            self._answer(borrowed.address, borrowed.size)
            borrowed.release()

    def _is_in_place(self, address: Any) -> bool:
        incoming = self._incoming
        return isinstance(address, int) and (
            (self._out is not None and 0 <= address - incoming.out < incoming.out_capacity)
            or (isinstance(self._data, Place) and 0 <= address - incoming.data < incoming.len))

    def _answer(self, address: Any, size: int) -> None:
        self._let_go()
        handle = self._open.handle.get()
        self._end(_native.answer(handle, self._open.number, address, size), handle)

    def _end(self, status: int, handle: int) -> None:
        if status == Status.EBUSY:
            raise failure(status, handle)
        self._open.answered = status == 0 or status == Status.FORKED
        check(status, handle)

    def _must_be_open(self) -> None:
        if self._open.answered:
            raise ValueError("it was answered")

    def _let_go(self) -> None:
        self._must_be_open()
        for place in (self._data, self._out):
            if isinstance(place, Place) and place.is_viewed():
                raise BufferError("something still looks at the request: let go of its views and arrays first")

    def __len__(self) -> int:
        return int(self._incoming.len)

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def text(self) -> str:
        """The payload as UTF-8."""
        return str(self.data, "utf-8")

    def __repr__(self) -> str:
        return f"<trine.Request {self.service}.{self.operation} of {len(self)} bytes>"


Handler = Callable[[Request], Any]


class _Service:
    def __init__(self) -> None:
        self.options: Dict[str, Any] = {}
        self.idempotent: Set[str] = set()
        self.handlers: Dict[str, Handler] = {}
        self.provided = False


class Worker:
    """A worker on a bus. Used by one thread at a time, but for `wake` and `stop`.

        worker = trine.Worker()

        @worker.operation("text")
        def upper(request):
            return bytes(request.data).upper()

        worker.serve()

    `slots`: requests that can wait at it, a power of two."""

    def __init__(self, bus: Optional[Any] = None, *, slots: int = 0, waiting: Waiting = Waiting.ADAPTIVE) -> None:
        pointer = c_void_p()
        options = _native.Options(waiting=waiting, slots=slots)
        check(_native.worker_open(bus_name(bus), byref(options), byref(pointer)), None)
        assert pointer.value is not None
        self._handle = Handle(pointer.value, _native.worker_close)
        self._services: Dict[str, _Service] = {}
        self._names: Dict[int, Tuple[str, str]] = {}
        self._keys: Dict[str, Key] = {}
        self._heard: List[BaseException] = []
        self._callback: Any = None
        self._stop = False

    def operation(self, service: str, name: Optional[str] = None, *,
                  idempotent: bool = False) -> Callable[[Handler], Handler]:
        """Makes a function an operation of a service, by its name if no other is given. It is given a `Request`; what
        it returns is the reply: anything with a contiguous buffer, a str, None for nothing, or LATER. What it raises
        ends the call with WORKER_ERROR: a `Failure` with its number and message, anything else is logged, too.

        `idempotent`: it may run more than once. A call of it whose worker died after it had begun runs again at another
        one, three times in all at most."""

        def add(handler: Handler) -> Handler:
            of, operation = self._services.setdefault(service, _Service()), name or handler.__name__
            of.handlers[operation] = handler
            (of.idempotent.add if idempotent else of.idempotent.discard)(operation)
            of.provided = False
            return handler

        return add

    def service(self, name: str, *, resources: Iterable[ResourceLike] = (), policy: Optional[Policy] = None,
                exclusive: Optional[Unheld] = None, stall: Optional[float] = None) -> None:
        """Chooses something for a service, before it is provided: what this worker speaks for (nothing said is all),
        how its calls are scheduled, that its resources are exclusive, and how many seconds this worker may show no sign
        of life while it has one of its calls in its hands, before they end with MAY_HAVE_RUN (30, where the director
        says nothing else; `math.inf` is for ever; the most patient of its services decides)."""
        self._services.setdefault(name, _Service()).options = {
            "resources": list(resources), "policy": policy, "exclusive": exclusive, "stall": stall}

    def provide(self) -> None:
        """Provides what was decorated, from now on. `serve` does it by itself."""
        for name, service in self._services.items():
            if service.handlers and not service.provided:
                self._provide(name, list(service.handlers), service.idempotent, **service.options)
                service.provided = True

    def _provide(self, service: str, operations: List[str], idempotent: Set[str], *,
                 resources: Iterable[ResourceLike] = (), policy: Optional[Policy] = None,
                 exclusive: Optional[Unheld] = None, stall: Optional[float] = None) -> None:
        spoken_for = self._resources(resources)
        given = (_native.Resource * len(spoken_for))(*spoken_for)
        marked = sum(1 << operations.index(operation) for operation in idempotent)
        options = _native.ServiceOptions(
            policy=policy or 0, unheld=exclusive or 0, resource_count=len(spoken_for), idempotent=marked,
            stall_ns=0 if stall is None else _native.FOREVER if stall == math.inf else max(1, nanoseconds(stall)))
        if spoken_for:
            options.resources = given
        names = (c_char_p * len(operations))(*(operation.encode() for operation in operations))
        first, handle = c_uint32(), self._handle.get()
        check(_native.provide_with(handle, service.encode(), names, len(names), byref(options), byref(first)), handle)
        for number, operation in enumerate(operations, first.value):
            self._names[number] = service, operation

    def _resources(self, given: Iterable[ResourceLike]) -> List[_native.Resource]:
        return resources(given, self.key)

    def withdraw(self, service: str) -> None:
        """Provides it no more. What this worker was given already it still serves."""
        handle = self._handle.get()
        check(_native.withdraw(handle, service.encode()), handle)
        self._services.pop(service, None)

    def next(self, timeout: Optional[float] = None) -> Optional[Request]:
        """The next request, in the order in which they came; None if none came in time. Raises `Drained` after the last
        one, `Interrupted` once after `wake`. Ctrl-C ends it by KeyboardInterrupt."""
        self.provide()
        end = None if timeout is None else time.monotonic_ns() + nanoseconds(timeout)
        incoming = _native.new_incoming()
        while True:
            handle = self._handle.get()
            status = _native.next(handle, _slice(end), byref(incoming))
            if self._heard:
                raise self._heard.pop()
            if status == 0:
                return Request(self._handle, incoming, self._names[incoming.operation])
            if status == Status.INTERRUPTED and self._woken:
                self._woken = False
                raise failure(status, handle)
            if status not in STILL_OPEN:
                raise failure(status, handle)
            if end is not None and time.monotonic_ns() >= end:
                return None

    _woken = False

    def serve(self) -> None:
        """Serves until it is stopped, or drained. Ctrl-C ends it by KeyboardInterrupt, between two requests or in a
        handler: that one's call ends with WORKER_ERROR."""
        self.provide()
        while not self._stop:
            try:
                request = self.next()
            except Interrupted:
                continue
            except Drained:
                return
            if request is not None:
                self._handle_one(request)
                del request
        self._stop = False

    def _handle_one(self, request: Request) -> None:
        service = self._services.get(request.service)
        handler = service.handlers.get(request.operation) if service else None
        if handler is None:
            request.fail(0, "the worker has no handler for it")
            return
        result: List[Any] = []
        try:
            result.append(handler(request))
            finish(request, result)
        except Exception as error:
            give_up(request, error)

    def stop(self) -> None:
        """Ends `serve`, from any thread, or a signal handler."""
        self._stop = True
        self.wake()

    def wake(self) -> None:
        """Ends the `next` that is under way, or else the next one, once, by `Interrupted`. From any thread."""
        self._woken = True
        pointer = self._handle.pointer
        if pointer is not None:
            check(_native.wake(pointer), None)

    def on_event(self, listener: Callable[[Event], Any]) -> Callable[[Event], Any]:
        """Has each event told to a function, from within `next` and `serve`: a right that was gained before the first
        request on it comes, one that is lost after the last one was answered, and before anybody else has it. The
        worker can't be used from within. What it raises comes out of `next`."""

        def hear(_: Any, told: Any) -> None:
            event = told.contents
            service = event.service.decode() if event.service else None
            about = resource_of(event.resource) if event.resource.kind else None
            try:
                kind: int = EventKind(event.kind) if event.kind in EventKind.__members__.values() else event.kind
                listener(Event(kind, service, about))
            except BaseException as error:
                self._heard.append(error)

        callback, handle = _native.EventCallback(hear), self._handle.get()
        check(_native.on_event(handle, callback, None), handle)
        self._callback = callback
        return listener

    def change(self, service: str, *, declare: Iterable[ResourceLike] = (), withdraw: Iterable[ResourceLike] = (),
               acquire: Iterable[ResourceLike] = (), release: Iterable[ResourceLike] = ()) -> None:
        """Changes what this worker declares and holds: all of it or nothing, at once, while calls go on."""
        groups = ((1, declare), (2, withdraw), (3, acquire), (4, release))
        steps = [_native.Step(action, 0, each) for action, given in groups for each in self._resources(given)]
        handle = self._handle.get()
        check(_native.change(handle, service.encode(), (_native.Step * len(steps))(*steps), len(steps)), handle)

    def acquire(self, service: str, what: ResourceLike) -> bool:
        """Asks for an exclusive right. Whether it is held already: if not, another worker was asked to hand it over, and
        an event will tell."""
        given, handle = resource(what, self.key), self._handle.get()
        status = _native.acquire(handle, service.encode(), byref(given))
        if status != Status.WOULD_BLOCK:
            check(status, handle)
        return bool(status == 0)

    def release(self, service: str, what: ResourceLike) -> None:
        """Gives a right back. What this worker was given on it, it still serves; then it is lost."""
        given, handle = resource(what, self.key), self._handle.get()
        check(_native.release(handle, service.encode(), byref(given)), handle)

    def holds(self, service: str) -> List[ResourceLike]:
        """What this worker holds exclusively of a service, as far as it has heard."""
        count, room = c_size_t(), 0
        while True:
            held, handle = (_native.Resource * room)(), self._handle.get()
            check(_native.holds(handle, service.encode(), held, room, byref(count)), handle)
            if count.value <= room:
                return [resource_of(each) for each in held[:count.value]]
            room = count.value

    def key(self, name: str) -> Key:
        """The key of a resource's name. Once for each, by a round trip on a socket."""
        key = self._keys.get(name)
        if key is None:
            found, handle = _native.Key(), self._handle.get()
            check(_native.worker_key_of(handle, name.encode(), byref(found)), handle)
            key = self._keys[name] = Key(found.word, True)
        return key

    def drain(self) -> None:
        """Takes no new work: what it was given it still serves, then `serve` returns. Clients notice nothing."""
        handle = self._handle.get()
        check(_native.drain(handle), handle)

    @property
    def id(self) -> int:
        """As replies name it."""
        return int(_native.worker_id(self._handle.get()))

    def fileno(self) -> int:
        """The descriptor for an event loop: see the head of trine.h. `trine.aio` does all of it for asyncio."""
        fd: int = _native.worker_fd(self._handle.get())
        if fd < 0:
            raise failure(fd, self._handle.pointer)
        return fd

    def arm(self) -> bool:
        """Before the loop sleeps. Whether to sleep now: if not, there is something to do."""
        return _armed(_native.worker_arm(self._handle.get()), self._handle)

    def disarm(self) -> None:
        """After the loop has slept."""
        check(_native.worker_disarm(self._handle.get()), self._handle.pointer)

    def close(self) -> None:
        """What was not answered ends with WORKER_ERROR, what was not begun goes to other workers. It stays until the
        last view of a request is gone."""
        self._handle.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


def finish(request: Request, result: List[Any]) -> None:
    """Answers with what a handler has returned."""
    if result[0] is LATER:
        return
    if request.is_answered:
        if result[0] is not None:
            raise TypeError("it answered, and returned something, too")
        return
    request._finish(result)


def give_up(request: Request, error: BaseException) -> None:
    """Answers with what a handler has raised, once nothing looks at the request any more."""
    if isinstance(error, Failure):
        code, message = error.code, error.message
    else:
        code, message = 0, f"{type(error).__name__}: {error}"
        # As text: a trace that is kept would keep what the handler had in its hands.
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        _log.error("%s.%s raised\n%s", request.service, request.operation, trace)
    if request.is_answered:
        return
    # What the handler had in its hands lives on in the trace.
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    try:
        request.fail(code, message)
    except BufferError:
        _log.error("%s.%s keeps a view of its request: the call ends when that is gone", request.service,
                   request.operation)


__all__ = ["LATER", "Event", "EventKind", "Failure", "Policy", "Request", "Unheld", "Worker"]
