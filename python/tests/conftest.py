"""A bus for each test, with a director in this process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest

import trine


@pytest.fixture
def bus(tmp_path: Any) -> Iterator[Any]:
    with trine.Director(tmp_path):
        yield tmp_path


@contextmanager
def serving(worker: trine.Worker) -> Iterator[trine.Worker]:
    """A worker that serves in a thread meanwhile."""
    worker.provide()
    raised = []

    def serve() -> None:
        try:
            worker.serve()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()
        worker.close()
    if raised:
        raise raised[0]


def echo(worker: trine.Worker) -> None:
    @worker.operation("test", "echo")
    def _(request: trine.Request) -> Any:
        return bytes(request.data)


def insist(use: Callable[[], Any]) -> Any:
    """`use`, again while another thread is in the handle: one that only looks in for a moment doesn't end it."""
    while True:
        try:
            return use()
        except trine.ConcurrentUse:
            pass


Serve = Callable[[trine.Worker], Any]
