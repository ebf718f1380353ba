"""Takes images from whoever has some, and gives back their edges: inference_service.py [BUS]

A request is rows × columns × 3 bytes, behind two 32-bit numbers that say how many. Neither the image nor the result is ever
copied: NumPy reads it in the client's memory, and writes it there."""

import signal
import sys

import numpy

import trine

worker = trine.Worker(sys.argv[1] + "/" if len(sys.argv) > 1 else None)


@worker.operation("vision")
def edges(request):
    rows, columns = (int(number) for number in request.array("<u4")[:2])
    if 8 + rows * columns * 3 != len(request):
        raise trine.Failure(400, "a request is rows, columns, and rows x columns x 3 bytes")
    image = request.array("u1")[8:].reshape(rows, columns, 3)
    out = request.out_array("u1", (rows, columns, 3))
    out[:, 0] = 0
    # The difference to the pixel at the left, whichever is brighter.
    left, right = image[:, :-1], image[:, 1:]
    numpy.maximum(left, right, out=out[:, 1:])
    out[:, 1:] -= numpy.minimum(left, right)
    return out


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: worker.stop())
worker.provide()
print("serving", flush=True)
worker.serve()
