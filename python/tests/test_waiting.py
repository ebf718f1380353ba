"""Ctrl-C, threads, and asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import trine
import trine.aio
from conftest import echo, insist, serving

WAITS = {
    "call": "client.call('slow', 'one')",
    "wait": "client.submit('slow', 'one').wait()",
    "any": "pending = client.submit('slow', 'one'); client.wait_any()",
    "room": "[client.submit('slow', 'one') for _ in range(3)]",
    "next": "worker.next()",
    "serve": "worker.serve()",
}

PROGRAM = """
import signal, sys, trine
signal.signal(signal.SIGINT, signal.default_int_handler)
client, worker = trine.connect(sys.argv[1], slots=2), trine.Worker(sys.argv[1])
other = trine.Worker(sys.argv[1])
other.operation("slow", "one")(lambda request: b"")
other.provide()
worker.operation("test", "echo")(lambda request: request.data)
worker.provide()
try:
    print("waits", flush=True)
    {wait}
except KeyboardInterrupt:
    client.route("test", "echo")
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait(bus, wait):
    program = PROGRAM.format(wait=WAITS[wait])
    child = subprocess.Popen([sys.executable, "-c", program, str(bus) + "/"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert (out, child.returncode) == ("interrupted\n", 0)


def test_a_signal_handler_runs_and_the_wait_goes_on(bus):
    worker = trine.Worker(bus)
    worker.operation("slow", "one")(lambda request: b"late")
    ran = threading.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: ran.set())
    try:
        with trine.connect(bus) as client:
            worker.provide()
            pending = client.submit("slow", "one")

            def answer():
                os.kill(os.getpid(), signal.SIGUSR1)
                ran.wait()
                worker.next().reply(b"late")

            thread = threading.Thread(target=answer)
            thread.start()
            assert bytes(pending.wait()) == b"late" and ran.is_set()
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_two_threads_in_one_handle(bus):
    worker = trine.Worker(bus)
    echo(worker)
    worker.provide()
    raised = []

    def wait():
        try:
            insist(worker.next)
        except trine.Interrupted as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while True:
        try:
            worker.holds("test")
        except trine.ConcurrentUse as error:
            assert "another thread" in str(error)
            break
    with pytest.raises(trine.ConcurrentUse):
        worker.close()
    worker.wake()
    thread.join()
    assert len(raised) == 1
    worker.close()


def test_a_client_a_thread(bus):
    worker = trine.Worker(bus)
    echo(worker)
    with serving(worker):
        def call(number, results):
            with trine.connect(bus) as client:
                for i in range(300):
                    text = f"{number} {i}"
                    results.append(client.call("test", "echo", text).text() == text)

        results = []
        threads = [threading.Thread(target=call, args=(number, results)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [True] * 1200


def test_asyncio_both_ways(bus):
    async def main():
        worker = trine.aio.AsyncWorker(bus, tasks=8)
        gate = asyncio.Event()
        given_up = asyncio.Event()

        @worker.operation("test")
        async def echo(request):
            await asyncio.sleep(0)
            return request.data

        @worker.operation("test")
        def at_once(request):
            return b"at once"

        @worker.operation("test")
        async def fails(request):
            raise trine.Failure(3, "no")

        @worker.operation("test")
        async def until_given_up(request):
            gate.set()
            while not request.is_cancelled:
                await asyncio.sleep(0.001)
            given_up.set()

        serving = asyncio.ensure_future(worker.serve())
        async with trine.aio.connect(bus, slots=16) as client:
            sent = [client.call("test", "echo", f"{i}") for i in range(200)]
            assert [reply.text() for reply in await asyncio.gather(*sent)] == [f"{i}" for i in range(200)]
            assert bytes(await client.call("test", "at_once")) == b"at once"
            large = await client.loan("test", "echo", 1 << 20)
            large.data[:] = b"x" * (1 << 20)
            assert await client.send(large, room=1 << 20) == b"x" * (1 << 20)
            with pytest.raises(trine.WorkerError):
                await client.call("test", "fails")
            with pytest.raises(trine.NotFound):
                await client.call("test", "nothing")
            call = asyncio.ensure_future(client.call("test", "until_given_up"))
            await gate.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await given_up.wait()
            gate.clear()
            given_up.clear()
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):
                await asyncio.wait_for(client.call("test", "until_given_up"), 0.02)
            await given_up.wait()
            with pytest.raises(trine.DeadlineExceeded):
                await client.call("test", "until_given_up", deadline=0.02)
            await client.post("test", "at_once")
            gate.clear()
            left = asyncio.ensure_future(client.call("test", "until_given_up"))
            await gate.wait()
        with pytest.raises(asyncio.CancelledError):
            await left
        worker.drain()
        await serving
        await worker.close()

    asyncio.run(main())


def test_asyncio_waits_without_a_deadline_passing_unseen(bus):
    """Nothing comes: the descriptor alone wakes the loop, for the deadline."""
    async def main():
        worker = trine.Worker(bus)
        worker.operation("slow", "one")(lambda request: b"")
        worker.provide()
        async with trine.aio.connect(bus) as client:
            with pytest.raises(trine.DeadlineExceeded):
                await client.call("slow", "one", deadline=0.05)

    asyncio.run(main())


def test_asyncio_scatter(bus):
    def adding(first, last, *, until_given_up=None):
        worker = trine.Worker(bus)
        worker.service("parts", resources=[range(first, last + 1)])

        @worker.operation("parts")
        def sum_up(request):
            if until_given_up is not None:
                while not request.is_cancelled:
                    time.sleep(0.001)
                until_given_up.set()
            return str(sum(key.word for key in request.keys))

        return serving(worker)

    async def main():
        async with trine.aio.connect(bus, slots=8) as client:
            parts = await client.scatter("parts", "sum_up", keys=[1, 11, 2])
            first = await parts.__anext__()
            assert [key.word for key in first.keys] == [1, 2] and first.result().text() == "3" and parts.count == 2
            assert not parts.is_done
            with pytest.raises((asyncio.TimeoutError, TimeoutError)):
                await asyncio.wait_for(parts.__anext__(), 0.02)
            parts.cancel()
            assert parts.is_done and given_up.wait(20)

            assert [part async for part in await client.scatter("parts", "sum_up", keys=[])] == []

            async def one():
                return [part.result().text() async for part in
                        await client.scatter("parts", "sum_up", keys=[3, 4, 5, 6])]

            assert await asyncio.gather(*(one() for _ in range(40))) == [["18"]] * 40
            [part] = [part async for part in await client.scatter_all("parts", "sum_up", most=1)]
            assert part.error.name == "TOO_MANY_PARTS" and part.error.needed == 2
            left = await client.scatter("parts", "sum_up", keys=[12])
            waiting = asyncio.ensure_future(left.__anext__())
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    given_up = threading.Event()
    with adding(0, 9), adding(10, 19, until_given_up=given_up):
        asyncio.run(main())
