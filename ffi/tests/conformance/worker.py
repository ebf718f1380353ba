"""The conformance worker: worker.py BUS FIRST LAST [parts | rules]"""

import os
import signal
import sys

import trine

bus, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
worker = trine.Worker(bus)
kept, noted = [], [b""]


def echo(request):
    return request.data


def mirror(request):
    out = request.out[:len(request)]
    if len(out) == len(request):
        out[:] = request.data
        return out
    return bytes(request.data)


def fail(request):
    raise trine.Failure(7, request.text())


def hold(request):
    kept.append(request)
    return trine.LATER


def held(request):
    return f"{len(kept)} {sum(each.is_cancelled for each in kept)}"


def release(request):
    while kept:
        kept.pop().reply(b"released")


def note(request):
    noted[0] = bytes(request.data)


def noted_(request):
    return noted[0]


def die(request):
    os._exit(9)


def block(request):
    print("blocked", flush=True)
    stall(request)


def stall(request):
    while True:
        signal.pause()


def retry(request):
    """Whoever comes first dies."""
    try:
        os.open(request.text(), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return "again"
    os._exit(9)


def key(request):
    if request.key is None:
        return "none"
    return "name" if request.key.is_name else f"number {request.key.word}"


def name_of(action):
    try:
        action()
    except trine.Error as error:
        return error.name
    return "OK"


def refusals(request):
    backwards = trine._native.Resource(trine._native.RANGE, 0, 2, 1)

    def acquire_backwards():
        handle = worker._handle.get()
        status = trine._native.acquire(handle, b"exclusive", backwards)
        if status:
            raise trine.failure(status, handle)

    return " ".join(map(name_of, (
        lambda: worker.change("parts", withdraw=[77]), acquire_backwards,
        lambda: worker.release("exclusive", 77), lambda: worker.acquire("nothing", 77))))


if sys.argv[4:] == ["rules"]:
    worker.operation("rules")(stall)
    worker.operation("rules", idempotent=True)(retry)
    worker.service("rules", stall=1.0)
elif len(sys.argv) < 5:
    for handler in (echo, mirror, fail, hold, held, release, note, die, key, refusals):
        worker.operation("conformance")(handler)
    worker.operation("conformance", "noted")(noted_)
    worker.service("exclusive", exclusive=trine.Unheld.ERROR)
    worker.operation("exclusive", "echo")(echo)
    worker.service("patient", exclusive=trine.Unheld.WAIT)
    worker.operation("patient", "echo")(echo)
else:
    worker.operation("slow")(block)
if sys.argv[4:] != ["rules"]:  # alone, since the most patient service decides
    worker.service("parts", resources=[range(first, last + 1)])
    worker.operation("parts", "sum")(lambda request: str(sum(each.word for each in request.keys)))
worker.provide()
print("serving", flush=True)
worker.serve()
