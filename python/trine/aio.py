"""Trine in asyncio: `AsyncClient` and `AsyncWorker`, each on its handle's own descriptor. No thread is used.

    as often as the loop comes round:  drain ─► arm ─► the loop sleeps on the descriptor ─► disarm ─► drain …

Finding an operation or a key for the first time, and providing a service, are round trips on a socket that the loop
waits for. All of a handle's calls are made in the thread of its loop.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from ctypes import byref
from types import TracebackType
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Set, Type

from . import _native
from ._client import Client, Loan, Part, Parts, Pending, Reply, _reply
from ._errors import Busy, Drained, Error, Interrupted, Status, failure
from ._handle import Key, KeyLike
from ._memory import Buffer
from ._worker import Event, Handler, Request, Worker, finish, give_up


class _Watch:
    """A handle's descriptor in the running loop."""

    def __init__(self, handle: Any, drain: Callable[[], bool]) -> None:
        self._handle, self._drain = handle, drain
        self._loop = asyncio.get_running_loop()
        self._fd = handle.fileno()
        self._again: Optional[asyncio.Handle] = None
        self._loop.add_reader(self._fd, self._woken)

    def sleep(self) -> None:
        """Before the loop sleeps: arms; where there is something to do already, it is done in the next round. Also
        after whatever else was done with the handle."""
        if self._fd >= 0 and not self._handle.arm() and self._again is None:
            self._again = self._loop.call_soon(self._ready)

    def _ready(self) -> None:
        self._again = None
        self._round()

    def _woken(self) -> None:
        self._handle.disarm()
        self._round()

    def _round(self) -> None:
        if self._drain():
            self.sleep()

    def stop(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        if self._again is not None:
            self._again.cancel()
            self._again = None


class AsyncParts:
    """A scatter that is under way: `async for part in parts`, in one task, as they come. What is open is given up when
    it is garbage, or by `cancel`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ended: Deque[Part] = deque()
        self._news: Optional["asyncio.Future[None]"] = None
        self._failed: Optional[BaseException] = None

    @property
    def count(self) -> Optional[int]:
        """How many there are in all: known from the first one on."""
        return self._parts.count

    @property
    def is_done(self) -> bool:
        """Whether there are no more."""
        return self._parts.is_done and not self._ended

    def __aiter__(self) -> "AsyncParts":
        return self

    async def __anext__(self) -> Part:
        while not self._ended:
            if self._parts.is_done:
                raise StopAsyncIteration
            if self._failed is not None:
                raise self._failed
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._ended.popleft()

    def cancel(self) -> None:
        """Gives up what is open."""
        self._parts.cancel()
        self._tell()

    def _heard(self, status: int, reply: _native.Reply, handle: int) -> None:
        self._parts.count = reply.parts or self._parts.count
        self._ended.append(self._parts._part(status, reply, handle))
        self._tell()

    def _fail(self, error: BaseException) -> None:
        self._failed = error
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class AsyncClient:
    """A client in the running loop: `call` from as many tasks as you like. A task that is cancelled gives its call up.
    Options as for `Client`."""

    def __init__(self, bus: Optional[Any] = None, **options: Any) -> None:
        self._client = Client(bus, **options)
        self._calls: Dict[int, "asyncio.Future[Reply]"] = {}
        self._scatters: "weakref.WeakValueDictionary[int, AsyncParts]" = weakref.WeakValueDictionary()
        self._room: List["asyncio.Future[None]"] = []
        self._watch = _Watch(self._client, self._drain)

    async def call(self, service: str, operation: str, data: Buffer = b"", **more: Any) -> Reply:
        """As `Client.call`."""
        return await self._ended(await self._sent(lambda: self._client.submit(
            service, operation, data, timeout=0, **more)))

    async def post(self, service: str, operation: str, data: Buffer = b"", **more: Any) -> None:
        """As `Client.post`."""
        await self._sent(lambda: self._client.post(service, operation, data, timeout=0, **more))

    async def scatter(self, service: str, operation: str, data: Buffer = b"", keys: Iterable[KeyLike] = (),
                      **more: Any) -> AsyncParts:
        """As `Client.scatter`."""
        about = list(keys)
        return self._scattered(await self._sent(lambda: self._client.scatter(
            service, operation, data, about, timeout=0, **more)))

    async def scatter_all(self, service: str, operation: str, data: Buffer = b"", **more: Any) -> AsyncParts:
        """As `Client.scatter_all`."""
        return self._scattered(await self._sent(lambda: self._client.scatter_all(
            service, operation, data, timeout=0, **more)))

    def _scattered(self, sent: Parts) -> AsyncParts:
        parts = AsyncParts(sent)
        if not sent.is_done:
            self._scatters[sent.ticket] = parts
            self._watch.sleep()
        return parts

    async def loan(self, service: str, operation: str, size: int) -> Loan:
        """As `Client.loan`; to be sent by `send`."""
        loan: Loan = await self._sent(lambda: self._client.loan(service, operation, size, timeout=0))
        return loan

    async def send(self, loan: Loan, size: Optional[int] = None, **more: Any) -> Reply:
        """Sends a loan, and waits for the result."""
        return await self._ended(loan.submit(size, **more))

    async def _sent(self, send: Callable[[], Any]) -> Any:
        """Tries again whenever a call has ended, as long as there is no room; for that, one has to be open."""
        while True:
            try:
                return send()
            except Busy:
                if not self._calls and not self._scatters:
                    raise
            room = asyncio.get_running_loop().create_future()
            self._room.append(room)
            await room

    async def _ended(self, pending: Pending) -> Reply:
        future: "asyncio.Future[Reply]" = asyncio.get_running_loop().create_future()
        ticket, self._calls[pending.ticket] = pending.ticket, future
        try:
            self._watch.sleep()
            return await future
        finally:
            if self._calls.pop(ticket, None) is None:
                pending._ended()  # and was said
            else:
                pending.cancel()
                self._make_room()

    def _drain(self) -> bool:
        while True:
            reply = _native.new_reply()
            status = _native.poll(self._client._handle.get(), _native.ANY, byref(reply))
            if status in (Status.WOULD_BLOCK, Status.INTERRUPTED):
                return True
            if reply.ticket == 0:
                self._fail(failure(status, self._client._handle.pointer))
                return False
            scatter = self._scatters.get(reply.ticket)
            if scatter is not None:
                scatter._heard(status, reply, self._client._handle.get())
                self._make_room()
                continue
            future = self._calls.pop(reply.ticket, None)
            self._make_room()
            try:
                result = _reply(self._client._handle, status, reply)
            except Error as error:
                if future is not None and not future.done():
                    future.set_exception(error)
                continue
            if future is not None and not future.done():
                future.set_result(result)
            del result

    def _make_room(self) -> None:
        waiting, self._room = self._room, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def _fail(self, error: BaseException) -> None:
        """The handle is of no use any more."""
        self._watch.stop()
        for parts in list(self._scatters.values()):
            parts._fail(error)
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(error)
        self._make_room()

    def key(self, name: str) -> Key:
        """As `Client.key`."""
        return self._client.key(name)

    async def close(self) -> None:
        """Gives up the open calls: those who wait for them are cancelled."""
        self._watch.stop()
        for parts in list(self._scatters.values()):
            parts._fail(asyncio.CancelledError())
        calls, self._calls = self._calls, {}
        for future in calls.values():
            future.cancel()
        self._make_room()
        self._client.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()


class AsyncWorker:
    """A worker in the running loop. Operations are decorated as those of a `Worker`; a coroutine function is run as a
    task, so that many requests are under way at a time, up to `tasks`."""

    def __init__(self, bus: Optional[Any] = None, *, tasks: int = 64, **options: Any) -> None:
        #: The worker itself: to acquire and change. What it is told is heard of when the loop next comes round to it.
        self.worker = Worker(bus, **options)
        self._tasks: Set["asyncio.Task[None]"] = set()
        self._most = tasks
        self._watch: Optional[_Watch] = None
        self._done: Optional["asyncio.Future[None]"] = None

    def operation(self, service: str, name: Optional[str] = None, *,
                  idempotent: bool = False) -> Callable[[Handler], Handler]:
        """As `Worker.operation`."""
        return self.worker.operation(service, name, idempotent=idempotent)

    def service(self, name: str, **chosen: Any) -> None:
        """As `Worker.service`."""
        self.worker.service(name, **chosen)

    def on_event(self, listener: Callable[[Event], Any]) -> Callable[[Event], Any]:
        """As `Worker.on_event`."""
        return self.worker.on_event(listener)

    def drain(self) -> None:
        """As `Worker.drain`: `serve` returns when it has served what it was given."""
        self.worker.drain()
        if self._watch is not None:
            self._watch.sleep()

    async def serve(self) -> None:
        """Until it is stopped, drained, or the task is cancelled; then what is under way is waited for, or cancelled."""
        self.worker.provide()
        self._done = asyncio.get_running_loop().create_future()
        self._watch = _Watch(self.worker, self._drain)
        try:
            self._watch._round()
            await self._done
            while self._tasks:
                await asyncio.wait(set(self._tasks))
        finally:
            self._watch.stop()
            for task in self._tasks:
                task.cancel()

    def stop(self) -> None:
        """Takes no more requests. In the loop's thread."""
        self._end(None)

    def _end(self, error: Optional[BaseException]) -> None:
        if self._watch is not None:
            self._watch.stop()
        if self._done is not None and not self._done.done():
            if error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(error)

    def _drain(self) -> bool:
        """Begins what there is. Whether to be woken for more: not while there are as many as there may be."""
        assert self._done is not None
        try:
            while not self._done.done():
                if len(self._tasks) >= self._most:
                    return False
                request = self.worker.next(0)
                if request is None:
                    return True
                self._begin(request)
        except Interrupted:
            return True
        except Drained:
            self._end(None)
        except Exception as error:
            self._end(error)
        return False

    def _begin(self, request: Request) -> None:
        handler = self.worker._services[request.service].handlers[request.operation]
        result: List[Any] = []
        try:
            result.append(handler(request))
            if asyncio.iscoroutine(result[0]):
                task = asyncio.ensure_future(self._run(request, result.pop()))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            else:
                finish(request, result)
        except Exception as error:
            give_up(request, error)

    @staticmethod
    async def _run(request: Request, handler: Any) -> None:
        result: List[Any] = []
        try:
            result.append(await handler)
            del handler
            finish(request, result)
        except Exception as error:
            give_up(request, error)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        was_full = len(self._tasks) >= self._most
        self._tasks.discard(task)
        if self._watch is None or self._done is None or self._done.done():
            return
        if was_full:
            self._watch._round()
        else:
            self._watch.sleep()  # a right that was recalled may be due, now that this is answered

    async def close(self) -> None:
        """What was not answered ends with WORKER_ERROR."""
        self.stop()
        self.worker.close()

    async def __aenter__(self) -> "AsyncWorker":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()


def connect(bus: Optional[Any] = None, **options: Any) -> AsyncClient:
    """Connects a client in the running loop. Options as for `Client`."""
    return AsyncClient(bus, **options)


__all__ = ["AsyncClient", "AsyncParts", "AsyncWorker", "connect"]
