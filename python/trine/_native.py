"""trine.h as ctypes sees it: the structs, the functions, nothing more.

ctypes, and not cffi or an extension module: it is part of Python, so the package needs nothing but its own shared
library, and one wheel serves every version. A function that may block lets other threads run meanwhile (`free`); one
that never does is called without that, which costs half as much (`held`).
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32,
                    c_uint64, c_void_p, sizeof)
from pathlib import Path
from typing import Any

FOREVER = (1 << 63) - 1
ANY = 0
RAN, LAST = 1, 2
PART = 1
HIGH, LOW, TRACED = 1, 2, 4
NUMBER, NAME, RANGE, SHARE, ALL = 1, 2, 3, 4, 5


class Sized(Structure):
    """A struct that begins with its size."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(size=sizeof(self), **fields)


class Key(Structure):
    _fields_ = [("word", c_uint64), ("kind", c_uint32), ("reserved", c_uint32)]


class Options(Sized):
    _fields_ = [
        ("size", c_uint32), ("flags", c_uint32), ("waiting", c_uint32), ("slots", c_uint32),
        ("reply_capacity", c_uint32), ("reserved_word", c_uint32), ("request_arena", c_uint64),
        ("reply_arena", c_uint64), ("director_gone_ns", c_uint64), ("reserved", c_uint64 * 2),
    ]


class CallArgs(Sized):
    _fields_ = [
        ("size", c_uint32), ("flags", c_uint32), ("deadline_ns", c_int64), ("reply_capacity", c_uint64),
        ("key", Key),
    ]


class Reply(Structure):
    _fields_ = [
        ("size", c_uint32), ("status", c_int32), ("flags", c_uint32), ("code", c_uint32), ("ticket", c_uint64),
        ("data", c_void_p), ("len", c_uint64), ("held", c_uint64), ("needed", c_uint64), ("worker", c_uint64),
        ("key_mask", c_uint64), ("parts", c_uint32), ("reserved", c_uint32), ("taken_ns", c_uint64), ("pushed_ns", c_uint64), ("began_ns", c_uint64),
        ("replied_ns", c_uint64), ("received_ns", c_uint64),
    ]


class Incoming(Structure):
    _fields_ = [
        ("size", c_uint32), ("operation", c_uint32), ("request", c_uint64), ("data", c_void_p), ("len", c_uint64),
        ("out", c_void_p), ("out_capacity", c_uint64), ("deadline_ns", c_uint64), ("uid", c_uint32),
        ("gid", c_uint32), ("pid", c_int32), ("flags", c_uint32), ("key", Key),
        ("key_mask", c_uint64),
    ]


class Resource(Structure):
    _fields_ = [("kind", c_uint32), ("reserved", c_uint32), ("first", c_uint64), ("last", c_uint64)]


class ServiceOptions(Sized):
    _fields_ = [
        ("size", c_uint32), ("flags", c_uint32), ("policy", c_uint32), ("unheld", c_uint32),
        ("resources", POINTER(Resource)), ("resource_count", c_uint64), ("idempotent", c_uint64),
        ("stall_ns", c_int64),
    ]


class Step(Structure):
    _fields_ = [("action", c_uint32), ("reserved", c_uint32), ("resource", Resource)]


class Event(Structure):
    _fields_ = [
        ("size", c_uint32), ("kind", c_uint32), ("service", c_char_p), ("resource", Resource),
        ("reserved", c_uint64 * 2),
    ]


EventCallback = CFUNCTYPE(None, c_void_p, POINTER(Event))
LogCallback = CFUNCTYPE(None, c_void_p, c_int32, c_char_p, c_char_p)

REPLY_SIZE, INCOMING_SIZE = sizeof(Reply), sizeof(Incoming)


def new_reply() -> Reply:
    reply = Reply()
    reply.size = REPLY_SIZE
    return reply


def new_incoming() -> Incoming:
    incoming = Incoming()
    incoming.size = INCOMING_SIZE
    return incoming


def _path() -> str:
    """The library: the one that is asked for, else the wheel's, else the system's."""
    if chosen := os.environ.get("TRINE_LIBRARY"):
        return chosen
    packed = Path(__file__).with_name("libtrine.so.0")
    return str(packed) if packed.exists() else "libtrine.so.0"


PATH = _path()
try:
    _free, _held = ctypes.CDLL(PATH), ctypes.PyDLL(PATH)
except OSError as missing:
    raise ImportError(
        f"{missing}: `pip install ./python` builds a wheel with the library in it; TRINE_LIBRARY names another one"
    ) from None


def _bind(library: Any, name: str, *arguments: Any, result: Any = c_int32) -> Any:
    function = getattr(library, "trine_" + name)
    function.argtypes, function.restype = arguments, result
    # ctypes keeps one object a name and library, and PyDLL's is another one than CDLL's.
    return function


def free(name: str, *arguments: Any, result: Any = c_int32) -> Any:
    """A function during which other threads run."""
    return _bind(_free, name, *arguments, result=result)


def held(name: str, *arguments: Any, result: Any = c_int32) -> Any:
    """A function that never blocks."""
    return _bind(_held, name, *arguments, result=result)


_P, _S = c_void_p, c_char_p  # a handle or data, a string

connect = free("connect", _S, POINTER(Options), POINTER(_P))
close = free("close", _P)
route_of = free("route_of", _P, _S, _S, POINTER(c_uint32))
key_of = free("key_of", _P, _S, POINTER(Key))
_submit = (_P, c_uint32, _P, c_size_t, POINTER(CallArgs), c_int64, POINTER(c_uint64))
submit, submit_now = free("submit", *_submit), held("submit", *_submit)
_post = (_P, c_uint32, _P, c_size_t, POINTER(CallArgs), c_int64)
post, post_now = free("post", *_post), held("post", *_post)
_scatter = (_P, c_uint32, POINTER(Key), c_size_t, _P, c_size_t, POINTER(CallArgs), c_int64, POINTER(c_uint64))
scatter, scatter_now = free("scatter", *_scatter), held("scatter", *_scatter)
_scatter_all = (_P, c_uint32, c_uint32, _P, c_size_t, POINTER(CallArgs), c_int64, POINTER(c_uint64))
scatter_all, scatter_all_now = free("scatter_all", *_scatter_all), held("scatter_all", *_scatter_all)
wait = free("wait", _P, c_uint64, c_int64, POINTER(Reply))
poll = held("poll", _P, c_uint64, POINTER(Reply))
cancel = held("cancel", _P, c_uint64)
reply_free = held("reply_free", _P, POINTER(Reply))
loan = free("loan", _P, c_uint32, c_size_t, c_int64, POINTER(_P))
send_loan = free("send_loan", _P, _P, c_size_t, POINTER(CallArgs), c_int64, POINTER(c_uint64))
loan_free = held("loan_free", _P, _P)
client_fd = held("client_fd", _P, result=c_int)
client_arm, client_disarm = held("client_arm", _P), held("client_disarm", _P)
director_start = free("director_start", _S, POINTER(Options), POINTER(_P))
director_stop = free("director_stop", _P)
version = held("version", result=c_uint32)
protocol = held("protocol", result=c_uint32)
error = held("error", _P, result=_S)
log = free("log", c_int32, LogCallback, _P)
status_name = held("status_name", c_int32, result=_S)
status_text = held("status_text", c_int32, result=_S)
worker_open = free("worker_open", _S, POINTER(Options), POINTER(_P))
worker_close = free("worker_close", _P)
provide_with = free("provide_with", _P, _S, POINTER(_S), c_size_t, POINTER(ServiceOptions), POINTER(c_uint32))
withdraw = free("withdraw", _P, _S)
next = free("next", _P, c_int64, POINTER(Incoming))
answer = held("answer", _P, c_uint64, _P, c_size_t)
fail = held("fail", _P, c_uint64, c_uint32, _S)
request_keys = held("request_keys", _P, c_uint64, POINTER(Key), c_size_t, POINTER(c_size_t))
is_cancelled = held("is_cancelled", _P, c_uint64, result=c_int)
wake = held("wake", _P)
worker_fd = held("worker_fd", _P, result=c_int)
worker_arm, worker_disarm = held("worker_arm", _P), held("worker_disarm", _P)
change = free("change", _P, _S, POINTER(Step), c_size_t)
acquire = free("acquire", _P, _S, POINTER(Resource))
release = free("release", _P, _S, POINTER(Resource))
holds = held("holds", _P, _S, POINTER(Resource), c_size_t, POINTER(c_size_t))
worker_key_of = free("worker_key_of", _P, _S, POINTER(Key))
drain = free("drain", _P)
worker_id = held("worker_id", _P, result=c_uint64)
on_event = held("on_event", _P, EventCallback, _P)

__all__ = ["byref"]
