"""Python's side of overhead.rs.

overhead.py BUS client: a number a line is how many calls to make; their latencies come back, 8 bytes each.
overhead.py BUS worker: serves echoes until its standard input ends.
"""

import array
import sys
import threading
import time

import trine

REQUEST = bytes([7]) * 64


def measure(client, calls):
    latencies, now = array.array("Q"), time.perf_counter_ns
    for _ in range(calls):
        start = now()
        reply = client.call("rust", "echo", REQUEST)
        latencies.append(now() - start)
        assert reply == REQUEST
    return latencies


def call(bus):
    client = trine.connect(bus, waiting=trine.Waiting.YIELD)
    for line in sys.stdin:
        sys.stdout.buffer.write(measure(client, int(line)).tobytes())
        sys.stdout.buffer.flush()


def serve(bus):
    worker = trine.Worker(bus)
    worker.operation("python", "echo")(lambda request: request.data)
    worker.provide()
    print("serving", flush=True)

    def end():
        sys.stdin.read()
        worker.stop()

    threading.Thread(target=end).start()
    worker.serve()


{"client": call, "worker": serve}[sys.argv[2]](sys.argv[1])
