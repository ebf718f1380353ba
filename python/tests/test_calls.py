"""Calls and answers, in every way that there is."""

from __future__ import annotations

import pickle
import re
import socket
import threading
import time
from pathlib import Path

import pytest

import trine
from conftest import echo, serving

SIZES = [0, 1, 63, 64, 65, 4095, 4096, 4097, 1 << 20, 16 << 20]


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def test_what_is_sent_comes_back_whatever_its_size(bus):
    worker = trine.Worker(bus)
    echo(worker)
    number = worker.id
    with serving(worker), trine.connect(bus) as client:
        for size in SIZES:
            reply = client.call("test", "echo", pattern(size), room=size)
            assert bytes(reply) == pattern(size) and len(reply) == size
            assert reply.worker == number


def test_any_buffer_can_be_sent(bus):
    numpy = pytest.importorskip("numpy")
    worker = trine.Worker(bus)
    echo(worker)
    with serving(worker), trine.connect(bus) as client:
        given = [b"bytes", bytearray(b"array"), memoryview(b"a view")[2:], "größer", numpy.arange(1000, dtype="i4"),
                 numpy.zeros((3, 4)), memoryview(bytearray(8)).toreadonly(), b""]
        for data in given:
            as_bytes = data.encode() if isinstance(data, str) else bytes(data)
            assert bytes(client.call("test", "echo", data, room=5000)) == as_bytes
        assert client.call("test", "echo", "größer").text() == "größer"
        assert client.call("test", "echo", b"x") == b"x"
        with pytest.raises(BufferError):
            client.call("test", "echo", memoryview(b"abcdef")[::2])
        with pytest.raises(ValueError):
            client.call("test", "echo", numpy.zeros((4, 4))[:, 1])
        with pytest.raises(TypeError):
            client.call("test", "echo", 7)


def test_what_a_handler_raises_ends_its_call(bus, caplog):
    worker = trine.Worker(bus)

    @worker.operation("test")
    def failing(request):
        raise trine.Failure(404, "no such key")

    @worker.operation("test")
    def broken(request):
        return 1 // 0

    @worker.operation("test")
    def numbers(request):
        return 7

    with serving(worker), trine.connect(bus) as client:
        with pytest.raises(trine.WorkerError) as raised:
            client.call("test", "failing")
        error = raised.value
        assert (error.code, error.message, error.status) == (404, "no such key", trine.Status.WORKER_ERROR)
        assert error.may_have_run and error.name == "WORKER_ERROR"
        assert str(pickle.loads(pickle.dumps(error))) == str(error) == "WORKER_ERROR: no such key"
        with pytest.raises(trine.WorkerError, match="ZeroDivisionError"):
            client.call("test", "broken")
        with pytest.raises(trine.WorkerError, match="TypeError"):
            client.call("test", "numbers")
        assert "broken raised" in caplog.text


def test_every_family_has_its_class(bus):
    worker = trine.Worker(bus)
    echo(worker)

    @worker.operation("test")
    def forever(request):
        kept.append(request)
        return trine.LATER

    kept = []
    with trine.connect(bus, slots=2) as client:
        with pytest.raises(trine.NotFound) as raised:
            client.call("nothing", "echo")
        assert isinstance(raised.value, LookupError) and not raised.value.may_have_run
        with serving(worker):
            with pytest.raises(trine.NotFound):
                client.call("test", "nothing")
            with pytest.raises(trine.DeadlineExceeded) as late:
                client.call("test", "forever", deadline=0.02)
            assert isinstance(late.value, TimeoutError)
            with pytest.raises(trine.TooLarge) as small:
                client.call("test", "echo", bytes(8000))
            assert small.value.needed == 8000
            with pytest.raises(trine.TooLarge):
                client.call("test", "echo", bytes(1 << 27))
            with pytest.raises(trine.InvalidArgument):
                client.call("", "echo")
            with pytest.raises(ValueError):
                client.call("test", "echo", key=-1)
            with pytest.raises(ValueError):
                client.call("test", "echo", deadline=-1)
            with pytest.raises(TypeError):
                client.call("test", "echo", unheard_of=1)
    with trine.connect(bus, slots=2) as client:
        waiting = trine.Worker(bus)
        waiting.operation("slow", "one")(lambda request: b"")
        waiting.provide()
        open_calls = [client.submit("slow", "one") for _ in range(2)]
        with pytest.raises(trine.Busy):
            client.submit("slow", "one", timeout=0)
        assert open_calls[0].wait(0.01) is None and open_calls[1].poll() is None
        waiting.close()
        for pending in open_calls:
            with pytest.raises((trine.NotFound, trine.Busy)):
                pending.wait()
    with pytest.raises(trine.DirectorGone) as gone:
        trine.connect("/nowhere/at/all/", director_gone=0.1)
    assert isinstance(gone.value, ConnectionError)


def test_the_statuses_are_those_of_the_header():
    header = (Path(__file__).parents[2] / "include/trine.h").read_text()
    names = dict(re.findall(r"^#define TRINE_(\w+) (-?\d+)$", header, re.M))
    for status in trine.Status:
        assert int(names[status.name]) == status
    number = 0
    while trine._native.status_name(number) != b"UNKNOWN":
        assert trine.Status(number).name.encode() == trine._native.status_name(number), "a status is missing"
        number += 1


def test_many_calls_in_any_order(bus):
    worker = trine.Worker(bus)
    kept = []

    @worker.operation("test")
    def later(request):
        kept.append(request)
        if len(kept) == 10:
            while kept:
                request = kept.pop()
                request.reply(request.data)
        return trine.LATER

    with serving(worker), trine.connect(bus) as client:
        pending = [client.submit("test", "later", str(i)) for i in range(10)]
        assert [each.wait().text() for each in pending] == [str(i) for i in range(10)]
        with pytest.raises(ValueError):
            pending[0].wait()
        pending = {each.ticket: each for each in (client.submit("test", "later", str(i)) for i in range(10))}
        for _ in range(10):
            ticket, reply = client.wait_any()
            with pytest.raises(ValueError):
                pending.pop(ticket).wait()
        assert client.wait_any() is None and not pending


def test_a_call_that_nobody_waits_for(bus):
    worker, posted = trine.Worker(bus), threading.Event()
    worker.operation("test", "note")(lambda request: posted.set())
    with serving(worker), trine.connect(bus) as client:
        client.post("test", "note", b"nobody waits")
        assert posted.wait(20)


def test_a_cancelled_call_is_seen_by_its_worker(bus):
    worker = trine.Worker(bus)
    seen, begun = threading.Event(), threading.Event()

    @worker.operation("test")
    def until_given_up(request):
        begun.set()
        while not request.is_cancelled:
            time.sleep(0.001)
        seen.set()

    with serving(worker), trine.connect(bus) as client:
        pending = client.submit("test", "until_given_up")
        begun.wait()
        del pending
        assert seen.wait(20)


def test_keys_rights_and_leaving(bus):
    heard = []

    def worker():
        made = trine.Worker(bus)
        made.service("files", policy=trine.Policy.AFFINITY, exclusive=trine.Unheld.ERROR)

        number = made.id

        @made.operation("files")
        def owner(request):
            assert request.caller[0] >= 0 and request.seconds_left > 0
            return f"{number} {request.key.is_name}"

        made.on_event(lambda event: heard.append((made, event)))
        made.provide()
        return made

    first, second = worker(), worker()
    with trine.connect(bus) as client:
        with pytest.raises(trine.ResourceError):
            client.call("files", "owner", key="a")
        assert first.acquire("files", "a") and first.holds("files") == [first.key("a")] == [client.key("a")]
        assert not second.acquire("files", "a")
        while len(heard) < 3:
            assert first.next(0.001) is None and second.next(0.001) is None
        kinds = [(who, event.kind, event.resource) for who, event in heard]
        a = client.key("a")
        assert kinds == [(first, trine.EventKind.GAINED, a), (first, trine.EventKind.LOST, a),
                         (second, trine.EventKind.GAINED, a)]
        assert heard[0][1].service == "files"
        second.change("files", acquire=[7, range(10, 20)], release=["a"])
        while len(second.holds("files")) != 2 or second.key("a") in second.holds("files"):
            second.next(0.001)
        assert second.holds("files") == [7, range(10, 20)]
        number = second.id
        with serving(second):
            assert client.call("files", "owner", key=12).text() == f"{number} False"
        with pytest.raises(ValueError):
            first.acquire("files", range(0))
        first.drain()
        with pytest.raises(trine.Drained):
            first.next()
        first.serve()
        assert heard[-1] == (first, (trine.EventKind.DRAINING, None, None))


def test_one_request_to_several_workers(bus):
    def worker(numbers):
        made = trine.Worker(bus)
        made.service("sums", resources=[numbers])

        @made.operation("sums", "sum")
        def _(request):
            assert request.is_part and request.key is None
            total = sum(key.word for key in request.keys)
            if total >= 100:
                raise trine.Failure(total, "too much")
            return f"{total}"

        return made

    with serving(worker(range(10))), serving(worker(range(10, 200))), trine.connect(bus) as client:
        parts = client.scatter("sums", "sum", bytes(5000), [1, 50, 2, 60])
        answers = {tuple(key.word for key in part.keys): part for part in parts}
        assert parts.count == 2 and parts.is_done and next(parts, None) is None
        assert answers[1, 2].result().text() == "3"
        with pytest.raises(trine.WorkerError) as raised:
            answers[50, 60].result()
        assert raised.value.code == 110
        assert sorted(part.result().text() for part in client.scatter_all("sums", "sum")) == ["0", "0"]
        assert list(client.scatter("sums", "sum")) == []
        too_many, = client.scatter_all("sums", "sum", most=1)
        assert isinstance(too_many.error, trine.TooLarge) and too_many.error.needed == 2
        client.scatter_all("sums", "sum").cancel()


def test_who_withdraws_a_service_loses_all_of_it(bus):
    with trine.Worker(bus) as worker:
        heard = []
        worker.service("test", exclusive=trine.Unheld.ERROR)
        worker.on_event(heard.append)
        echo(worker)
        worker.provide()
        assert worker.acquire("test", 7) and worker.acquire("test", 9)
        worker.withdraw("test")
        while not any(event.kind == trine.EventKind.LOST for event in heard):
            assert worker.next(0.01) is None
        assert heard[-1] == (trine.EventKind.LOST, "test", None)
        assert worker.holds("test") == []


def test_what_a_listener_raises_comes_out_of_next(bus):
    worker = trine.Worker(bus)
    echo(worker)

    @worker.on_event
    def listen(event):
        with pytest.raises(trine.ConcurrentUse):
            worker.drain()
        raise KeyError(event.kind)

    worker.provide()
    worker.drain()
    with pytest.raises(KeyError):
        worker.next()


def test_traced_calls_and_classes(bus):
    worker = trine.Worker(bus)
    echo(worker)
    with serving(worker), trine.connect(bus) as client:
        hops = client.call("test", "echo", traced=True, priority=trine.Priority.HIGH).hops
        assert hops is not None and list(hops) == sorted(hops)
        assert client.call("test", "echo", priority=trine.Priority.LOW).hops is None


def test_closed_handles_say_so(bus):
    client, worker = trine.connect(bus), trine.Worker(bus)
    client.close()
    worker.close()
    client.close()
    for use in (lambda: client.call("test", "echo"), client.arm, client.fileno, worker.next, worker.drain):
        with pytest.raises(ValueError):
            use()
    worker.wake()


def test_the_log_is_told(bus):
    said, told = [], threading.Event()

    def listen(level, place, text):
        said.append((level, place, text))
        told.set()

    trine.log_to(listen, 4)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(bus / "socket"))
            stranger.send(bytes(64))
            assert told.wait(20)
    finally:
        trine.log_to(None)
    assert all(place.startswith("trine") and 1 <= level <= 4 for level, place, _ in said), said
