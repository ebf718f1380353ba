"""A key-value service: keyvalue_service.py [BUS]

A request is a key, a zero byte, and for `put` a value: any of the clients in these examples can ask it, in whichever
language. It serves until SIGINT or SIGTERM."""

import signal
import sys

import trine

worker = trine.Worker(sys.argv[1] + "/" if len(sys.argv) > 1 else None)
store = {}


def key_and_value(request):
    key, zero, value = bytes(request.data).partition(b"\0")
    if not zero:
        raise trine.Failure(400, "a request is a key, a zero byte, and a value")
    return key, value


@worker.operation("store")
def get(request):
    key, _ = key_and_value(request)
    if key not in store:
        raise trine.Failure(404, "no such key")
    return store[key]


@worker.operation("store")
def put(request):
    key, value = key_and_value(request)
    store[key] = value


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: worker.stop())
worker.provide()
print("serving", flush=True)
worker.serve()
