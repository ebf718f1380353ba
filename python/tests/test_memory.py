"""Memory that is looked at after its time: stays what it was, or the attempt is an error."""

from __future__ import annotations

import gc
import multiprocessing
import os
import weakref

import pytest

import trine
from conftest import echo, insist, serving

numpy = pytest.importorskip("numpy")
LARGE = 100_000


@pytest.fixture
def client(bus):
    worker = trine.Worker(bus)

    @worker.operation("test")
    def fill(request):
        out = request.out_array("u1", (LARGE,))
        out[:] = request.data[0]
        return out

    @worker.operation("test")
    def add_one(request):
        out = request.out_array("f8", (len(request) // 8,))
        numpy.add(request.array("f8"), 1, out=out)
        return out

    @worker.operation("test")
    def mirror(request):
        return request.data

    @worker.operation("test")
    def part(request):
        return request.out[:100]

    with serving(worker), trine.connect(bus) as client:
        yield client


def test_arrays_go_both_ways_without_a_copy(client):
    loan = client.loan("test", "add_one", 8 * LARGE)
    loan.array("f8")[:] = numpy.arange(LARGE)
    reply = loan.call(room=8 * LARGE)
    result = reply.array("f8", (LARGE // 100, 100))
    assert (result.ravel() == numpy.arange(1, LARGE + 1)).all()
    with pytest.raises(ValueError):
        result[0, 0] = 1
    assert client.call("test", "mirror", result, room=8 * LARGE) == reply
    assert len(client.call("test", "part", room=8192)) == 100


def test_a_view_outlives_its_reply_and_its_client(bus, client):
    views = []
    for value in (1, 2, 3):
        reply = client.call("test", "fill", bytes([value]), room=LARGE)
        views += [reply.data[10:20], numpy.frombuffer(reply.data, "u1")[::7]]
        del reply
    gc.collect()
    for value in range(4, 100):
        client.call("test", "fill", bytes([value]), room=LARGE)
    for value, (view, array) in zip((1, 2, 3), zip(views[::2], views[1::2])):
        assert bytes(view) == bytes([value]) * 10 and (array == value).all()

    # The handle is closed when the last of them is gone, and not before.
    other = trine.connect(bus)
    reply = other.call("test", "fill", b"\x09", room=LARGE)
    view, handle = reply.data[5:6], weakref.ref(other._handle)
    pending = other.submit("test", "fill", b"\x0a")
    other.close()
    with pytest.raises(ValueError):
        pending.wait()
    del pending
    del reply, other
    gc.collect()
    assert bytes(view) == b"\x09" and handle() is not None
    del view
    assert handle() is None


def test_what_is_let_go_gives_its_slot_back(client):
    for _ in range(1000):
        client.call("test", "fill", b"\x01", room=LARGE)
    held = [client.call("test", "fill", b"\x01", room=LARGE) for _ in range(64)]
    with pytest.raises(trine.Busy, match="held by replies"):
        client.submit("test", "fill", b"\x01", room=LARGE, timeout=1)
    del held
    client.call("test", "fill", b"\x01", room=LARGE)


def test_a_loan_that_is_looked_at_is_not_sent(client):
    loan = client.loan("test", "mirror", LARGE)
    array = loan.array()
    array[:] = 5
    with pytest.raises(BufferError):
        loan.submit()
    view = loan.data[1:2]
    del array
    with pytest.raises(BufferError):
        loan.submit()
    del view
    with pytest.raises(trine.InvalidArgument):
        loan.submit(LARGE + 1)
    assert bytes(loan.data[:3]) == b"\x05\x05\x05"
    assert bytes(loan.call(3)) == b"\x05\x05\x05"
    for use in (loan.submit, lambda: loan.data):
        with pytest.raises(ValueError):
            use()
    # Loans that are dropped give their memory back: they would not all fit.
    for _ in range(3000):
        client.loan("test", "mirror", LARGE)
    assert bytes(client.loan("test", "mirror", 0).call()) == b""


def test_a_request_that_is_looked_at_is_not_answered(bus):
    kept, worker = [], trine.Worker(bus)

    @worker.operation("test")
    def keep(request):
        kept.append(request.data[:10])
        return b"done"

    @worker.operation("test")
    def raise_with_it(request):
        image = request.array()
        raise RuntimeError(image)

    @worker.operation("test")
    def later(request):
        view = request.data
        with pytest.raises(BufferError):
            request.reply(b"")
        del view
        request.reply(b"now")
        with pytest.raises(ValueError):
            request.data

    with serving(worker), trine.connect(bus) as client:
        # Once the worker has the session, calls come in order; before, by their routes' turns.
        client.call("test", "keep", b"small")
        kept.clear()
        pending = client.submit("test", "keep", bytes(LARGE))
        assert bytes(client.call("test", "later", bytes(LARGE))) == b"now"
        assert pending.poll() is None and bytes(kept[0]) == bytes(10)
        kept.clear()
        with pytest.raises(trine.WorkerError, match="BufferError|dropped"):
            pending.wait()
        with pytest.raises(trine.WorkerError, match="RuntimeError|dropped"):
            client.call("test", "raise_with_it", bytes(LARGE))
        # Small ones are copies, and may be kept.
        assert bytes(client.call("test", "keep", b"small")) == b"done"
        assert bytes(kept[0]) == b"small"


def test_a_request_that_is_dropped_is_answered(bus):
    worker = trine.Worker(bus)
    worker.operation("test", "drop")(lambda request: trine.LATER)
    with serving(worker), trine.connect(bus) as client:
        for size in (0, LARGE):
            with pytest.raises(trine.WorkerError, match="dropped"):
                client.call("test", "drop", bytes(size))


def in_child(run):
    """Runs something in a forked child; whether it went well."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_is_told_and_its_views_are_good(bus, client):
    reply = client.call("test", "fill", b"\x07", room=LARGE)
    part = reply.data[5000:5010]
    pending = client.submit("test", "fill", b"\x08", room=LARGE)
    loan = client.loan("test", "fill", LARGE)
    loan.data[:3] = b"abc"

    def look():
        assert bytes(part) == b"\x07" * 10 and (reply.array() == 7).all()
        assert bytes(loan.data[:3]) == b"abc"
        for use in (lambda: client.call("test", "fill", b"\x01"), pending.wait, loan.submit, client.arm, client.disarm):
            with pytest.raises(trine.Forked):
                use()
        with trine.connect(bus) as own:
            assert own.call("test", "fill", b"\x09", room=LARGE) == b"\x09" * LARGE
        client.close()

    in_child(look)
    # The parent's are as they were.
    assert bytes(part) == b"\x07" * 10
    assert pending.wait() == b"\x08" * LARGE


def child_of_a_pool(bus, number):
    with trine.connect(bus) as client:
        return bytes(client.call("test", "fill", bytes([number]), room=LARGE)) == bytes([number]) * LARGE


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_multiprocessing(bus, client, how):
    client.call("test", "fill", b"\x01", room=LARGE)
    with multiprocessing.get_context(how).Pool(2) as pool:
        assert pool.starmap(child_of_a_pool, [(bus, number) for number in range(6)]) == [True] * 6


def test_garbage_is_given_back_while_another_thread_is_inside(bus):
    import threading

    worker = trine.Worker(bus)
    echo(worker)
    with serving(worker), trine.connect(bus) as client:
        replies = [client.call("test", "echo", bytes(LARGE), room=LARGE) for _ in range(60)]
        slow = trine.Worker(bus)
        slow.operation("slow", "one")(lambda request: b"")
        slow.provide()
        pending = client.submit("slow", "one")
        waiting = threading.Thread(target=insist, args=(pending.wait,))
        waiting.start()
        request = slow.next()
        while True:
            try:
                client.arm()
            except trine.ConcurrentUse:
                break
        replies.clear()  # the other thread is in the handle
        request.reply()
        waiting.join()
        del pending
        assert len([client.call("test", "echo", bytes(LARGE), room=LARGE) for _ in range(60)]) == 60
        slow.close()
