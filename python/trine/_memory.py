"""Bytes on their way in and out.

    into the library     any object with a contiguous buffer, by its address: nothing is copied here
    out, up to 4 KiB     copied into a `bytes`: quicker than the bookkeeping
    out, more            a view of shared memory, which stays what it is as long as anything looks at it

Such a view hangs on a ctypes array, which hangs on its *owner*: what gives the memory back once it is garbage. Slices,
casts and NumPy arrays all keep the array alive, so that the memory outlives every one of them: there is nothing to
count, and no way to read what is not there.

A forked child does not have its parent's shared memory. What is viewed at the fork is copied for it, so that views are
good there, too, and look at their own copy.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import weakref
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

#: What can be sent: a `str` is sent as UTF-8.
Buffer = Union[bytes, bytearray, memoryview, Any]

#: Less than this is copied.
IN_PLACE = 4096


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None


class _Bytes:
    """A `bytes`: ctypes passes its address, and this keeps it."""

    __slots__ = ("address", "size")

    def __init__(self, data: bytes) -> None:
        self.address: Any = data
        self.size = len(data)

    def release(self) -> None:
        pass


class _Borrowed:
    """The bytes of another object, by their address, until `release`."""

    __slots__ = ("address", "size", "_buffer")

    def __init__(self, data: Any) -> None:
        self._buffer: Optional[_PyBuffer] = None
        buffer = _PyBuffer()
        _get_buffer(data, ctypes.byref(buffer), 0)  # raises TypeError, or BufferError where it is not contiguous
        self.address: Any
        self._buffer, self.address, self.size = buffer, buffer.buf or 0, buffer.len

    def release(self) -> None:
        if self._buffer is not None:
            _release_buffer(ctypes.byref(self._buffer))
            self._buffer = None

    def __del__(self) -> None:
        self.release()


def borrow(data: Buffer) -> Union[_Bytes, _Borrowed]:
    """The bytes of an object, by their address, until they are released."""
    if isinstance(data, str):
        data = data.encode()
    return _Bytes(data) if type(data) is bytes else _Borrowed(data)


def copy(address: Optional[int], size: int) -> bytes:
    return ctypes.string_at(address, size) if address and size else b""


class Place:
    """Bytes of shared memory that Python looks at."""

    __slots__ = ("array", "address", "size", "_owner")

    def __init__(self, address: int, size: int, owner: Callable[[], object]) -> None:
        self.address, self.size, self._owner = address, size, owner
        self.array: Optional[Any] = None
        self._make()

    def _make(self) -> Any:
        array: Any = (ctypes.c_ubyte * self.size).from_address(self.address)
        self.array = array
        array._owner = self._owner()
        _places[id(array)] = weakref.ref(array, _forget(id(array)))
        return array

    def view(self, writable: bool) -> memoryview:
        view = memoryview(self._make() if self.array is None else self.array).cast("B")
        return view if writable else view.toreadonly()

    def is_viewed(self) -> bool:
        """Whether anything but this still looks at it. Lets go of it, if not."""
        if self.array is None:
            return False
        array, self.array = weakref.ref(self.array), None
        if array() is not None:
            gc.collect()  # what looks at it may be garbage that nobody has collected yet
        self.array = array()
        return self.array is not None


# Arrays that are alive, by their ids: what a fork has to copy.
_places: Dict[int, "weakref.ref[Any]"] = {}


def _forget(number: int) -> Any:
    return lambda _: _places.pop(number, None)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_FIXED_NOREPLACE = 0x100000

_copies: List[Tuple[int, bytes]] = []


def _before_fork() -> None:
    for reference in list(_places.values()):
        array = reference()
        if array is not None:
            _copies.append((ctypes.addressof(array), bytes(memoryview(array).cast("B"))))


def _after_in_child() -> None:
    """Puts copies where the shared memory was, page by page: two views may share one."""
    page, flags = mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED_NOREPLACE
    pages = sorted({at for address, data in _copies
                    for at in range(address // page * page, address + len(data), page)})
    there: Set[int] = set()
    for start, count in _runs(pages, page):
        # What is there already is somebody else's, and stays as it is.
        if _libc.mmap(start, count * page, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start:
            there.update(range(start, start + count * page, page))
    for address, data in _copies:
        if there.issuperset(range(address // page * page, address + len(data), page)):
            ctypes.memmove(address, data, len(data))
    _copies.clear()


def _runs(pages: List[int], page: int) -> List[Tuple[int, int]]:
    runs: List[Tuple[int, int]] = []
    for at in pages:
        if runs and runs[-1][0] + runs[-1][1] * page == at:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((at, 1))
    return runs


os.register_at_fork(before=_before_fork, after_in_parent=_copies.clear, after_in_child=_after_in_child)
