"""What a client and a worker have in common: a C handle, closed when nobody has a use for it any more.

A handle is used by one thread at a time, but garbage is collected in whichever thread: what has to be given back then
waits in `later` if another thread is inside, and goes with its next operation.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Set, Tuple, Union

from . import _native
from ._errors import Status, failure

#: Longest time that Python's signal handlers may have to wait for a wait in C, where the signal came just before it.
SLICE_NS = 200_000_000
#: Statuses that leave a wait's call as it is. Numbers, since an enumeration's members take longer to find than a call of C.
STILL_OPEN = (int(Status.WOULD_BLOCK), int(Status.INTERRUPTED))


class Handle:
    """A C handle. Shared by the object that the program has, and by everything that lies in the handle's memory."""

    __slots__ = ("pointer", "tickets", "_end", "_cancel", "_closing", "_users", "_later", "__weakref__")

    def __init__(self, pointer: int, end: Callable[[int], int],
                 cancel: Optional[Callable[[int, int], int]] = None) -> None:
        self.pointer: Optional[int] = pointer
        #: Calls whose end nobody has heard of.
        self.tickets: Set[int] = set()
        self._end, self._cancel = end, cancel
        self._closing = False
        self._users: Dict[int, object] = {}
        self._later: Deque[Callable[[int], int]] = deque()

    def get(self) -> int:
        """The handle, for an operation of the program's."""
        if self._closing or self.pointer is None:
            raise ValueError("it is closed")
        if self._later:
            self._give_back()
        return self.pointer

    @property
    def is_closed(self) -> bool:
        return self._closing

    def enter(self, user: object) -> None:
        """Somebody lies in the handle's memory."""
        self._users[id(user)] = None

    def leave(self, user: object, give_back: Optional[Callable[[int], int]] = None) -> None:
        """No more, and something is to be given back. From any thread, also while another one is inside."""
        self._users.pop(id(user), None)
        if give_back is not None:
            self._later.append(give_back)
            self._give_back()
        if self._closing and not self._users:
            self._finish()

    def _give_back(self) -> None:
        while self._later and self.pointer is not None:
            try:
                give_back = self._later.popleft()
            except IndexError:
                return
            if give_back(self.pointer) == Status.EBUSY:
                self._later.append(give_back)
                return

    def close(self) -> None:
        """Now, or when the last view of its memory is gone; what is open is given up now."""
        self._closing = True
        if not self._users:
            self._finish()
        elif self.pointer is not None and self._cancel is not None:
            for ticket in list(self.tickets):
                self._cancel(self.pointer, ticket)
        self.tickets.clear()

    def _finish(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer is not None and self._end(pointer) == Status.EBUSY:
            self.pointer, self._closing = pointer, False
            raise failure(Status.EBUSY, None)

    def __del__(self) -> None:
        pointer, self.pointer = self.pointer, None
        if pointer is not None:
            self._end(pointer)


def check(status: int, handle: Optional[int]) -> None:
    if status != 0:
        raise failure(status, handle)


def bus_name(bus: Optional[Any]) -> Optional[bytes]:
    """A bus's name, or a path with a slash in it, or None for the default bus."""
    if bus is None:
        return None
    if isinstance(bus, str):
        return bus.encode()
    path = bus.__fspath__()
    return (path if isinstance(path, bytes) else path.encode()).rstrip(b"/") + b"/"


def nanoseconds(seconds: float) -> int:
    if not seconds >= 0:
        raise ValueError("a time is negative")
    return min(int(seconds * 1e9), _native.FOREVER)


KeyLike = Union[int, str, "Key"]


class Key:
    """One resource of a service: a number, or a name. `Client.key` makes one of a name."""

    __slots__ = ("word", "is_name")

    def __init__(self, word: int, is_name: bool = False) -> None:
        self.word, self.is_name = word, is_name

    def native(self) -> _native.Key:
        return _native.Key(self.word, _native.NAME if self.is_name else _native.NUMBER, 0)

    @staticmethod
    def of(key: _native.Key) -> "Optional[Key]":
        return Key(key.word, key.kind == _native.NAME) if key.kind else None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return not self.is_name and self.word == other
        return isinstance(other, Key) and (self.word, self.is_name) == (other.word, other.is_name)

    def __hash__(self) -> int:
        return hash(self.word) if not self.is_name else hash((self.word, True))

    def __repr__(self) -> str:
        return f"Key({self.word}, is_name=True)" if self.is_name else f"Key({self.word})"


class Share:
    """Share `index` of `of` of a service's resources, by a hash of the key."""

    __slots__ = ("index", "of")

    def __init__(self, index: int, of: int) -> None:
        self.index, self.of = index, of

    def __repr__(self) -> str:
        return f"Share({self.index}, of={self.of})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Share) and (self.index, self.of) == (other.index, other.of)

    def __hash__(self) -> int:
        return hash((self.index, self.of))


#: What a worker speaks for: a number, a name, a key, a range of numbers (with step 1), a share; None for all.
ResourceLike = Union[int, str, Key, range, Share, None]


def word(number: int) -> int:
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{number} is not a number from 0 to 2**64 - 1")
    return number


def resource(given: ResourceLike, key_of: Callable[[str], Key]) -> _native.Resource:
    if given is None:
        return _native.Resource(_native.ALL, 0, 0, 0)
    if isinstance(given, str):
        given = key_of(given)
    if isinstance(given, range):
        if given.step != 1 or not given:
            raise ValueError(f"{given} is empty, or its step is not 1")
        return _native.Resource(_native.RANGE, 0, word(given[0]), word(given[-1]))
    if isinstance(given, Share):
        return _native.Resource(_native.SHARE, 0, word(given.index), word(given.of))
    if isinstance(given, Key):
        kind = _native.NAME if given.is_name else _native.NUMBER
        return _native.Resource(kind, 0, given.word, given.word)
    number = word(int(given))
    return _native.Resource(_native.NUMBER, 0, number, number)


def resource_of(given: _native.Resource) -> ResourceLike:
    if given.kind == _native.RANGE:
        return range(given.first, given.last + 1)
    if given.kind == _native.SHARE:
        return Share(given.first, given.last)
    if given.kind == _native.ALL:
        return None
    return Key(given.first, given.kind == _native.NAME)


def resources(given: Iterable[ResourceLike], key_of: Callable[[str], Key]) -> List[_native.Resource]:
    return [resource(each, key_of) for each in given]


class Loop:
    """A handle that an event loop sleeps on: see the head of trine.h."""

    __slots__ = ("arm", "disarm", "fd")

    def __init__(self, functions: Tuple[Any, Any, Any], handle: Handle) -> None:
        fd, arm, disarm = functions
        self.arm: Callable[[], int] = lambda: arm(handle.get())
        self.disarm: Callable[[], int] = lambda: disarm(handle.get())
        self.fd: int = fd(handle.get())
