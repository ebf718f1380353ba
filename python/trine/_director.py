"""A director in threads of this process: for tests, and for programs that are their own bus."""

from __future__ import annotations

from ctypes import byref, c_void_p
from types import TracebackType
from typing import Any, Optional, Type

from . import _native
from ._client import Waiting
from ._handle import Handle, bus_name, check


class Director:
    """Runs until it is stopped, or garbage."""

    def __init__(self, bus: Optional[Any] = None, *, waiting: Waiting = Waiting.ADAPTIVE) -> None:
        pointer, options = c_void_p(), _native.Options(waiting=waiting)
        check(_native.director_start(bus_name(bus), byref(options), byref(pointer)), None)
        assert pointer.value is not None
        self._handle = Handle(pointer.value, _native.director_stop)

    def stop(self) -> None:
        """What waits ends; workers finish what they have begun, 5 s at most."""
        self._handle.close()

    def __enter__(self) -> "Director":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.stop()
