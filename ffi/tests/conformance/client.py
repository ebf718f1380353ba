"""The conformance client: client.py BUS, with a command a line on its standard input."""

import os
import signal
import sys
import time

import trine

bus = sys.argv[1]
client, helper = trine.connect(bus, slots=8, director_gone=0.5), trine.connect(bus)


def said(error):
    message = f" {error.message}" if error.status == trine.Status.WORKER_ERROR else ""
    return f"{error.name} ran={int(error.may_have_run)} code={error.code} needed={error.needed or 0}{message}"


def outcome(call):
    try:
        reply = call()
    except trine.Error as error:
        return said(error)
    return f"OK {reply.text()}".rstrip() if isinstance(reply, trine.Reply) else reply


def pattern(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def compared(reply, size):
    return f"OK {len(reply)} {'same' if reply == pattern(size) else 'other'}"


def ask(operation):
    return helper.call("conformance", operation).text()


def until_held(expected):
    while ask("held") != expected:
        time.sleep(0.001)


def hold(**more):
    return client.submit("conformance", "hold", **more)


def names():
    number, all_names = 0, []
    while (name := trine._native.status_name(number).decode()) != "UNKNOWN":
        assert trine.Status(number).name == name
        all_names.append(name)
        number += 1
    return " ".join(all_names)


def echo(size):
    size = int(size)
    return outcome(lambda: compared(client.call("conformance", "echo", pattern(size), room=size or 1), size))


def mirror(size):
    size = int(size)
    loan = client.loan("conformance", "mirror", size)
    loan.data[:] = pattern(size)
    return outcome(lambda: compared(loan.call(room=size or 1), size))


def narrow(size):
    return outcome(lambda: client.call("conformance", "echo", pattern(int(size))))


def huge():
    return outcome(lambda: client.call("conformance", "echo", bytes(65 << 20)))


def text(rest):
    operation, _, data = rest.partition(" ")
    return outcome(lambda: client.call("conformance", operation, data))


def route(rest):
    return outcome(lambda: client.route(*rest.split()) and "OK")


def deadline():
    ended = outcome(lambda: client.call("conformance", "hold", deadline=0.02))
    ask("release")
    return ended


def poll():
    pending = hold()
    until_held("1 0")
    seen = "WOULD_BLOCK" if pending.poll() is None else "OK"
    ask("release")
    return f"{seen} {outcome(pending.wait)}"


def cancel():
    pending = hold()
    until_held("1 0")
    pending.cancel()
    until_held("1 1")
    ended = f"OK {ask('held')}"
    ask("release")
    return ended


def full():
    pending = []
    try:
        while True:
            pending.append(hold(timeout=0))
    except trine.Busy as error:
        ended = f"{len(pending)} {said(error)}"
    until_held("8 0")  # what is not begun when it is given up never is
    pending.clear()
    until_held("8 8")
    ask("release")
    return ended


def post(data):
    client.post("conformance", "note", data)
    return text("noted")


class Alarm(Exception):
    pass


def interrupt():
    pending = hold()
    until_held("1 0")

    def ring(*_):
        raise Alarm

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        pending.wait()
        seen = "OK"
    except Alarm:
        seen = "INTERRUPTED"
    ask("release")
    return f"{seen} {outcome(pending.wait)}"


def fork():
    child = os.fork()
    if child == 0:
        try:
            client.call("conformance", "echo")
        except trine.Error as error:
            os._exit(error.status)
        os._exit(0)
    return trine.Status(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).name


def key(rest):
    kind, _, word = rest.partition(" ")
    about = {"number": lambda: int(word), "name": lambda: word, "none": lambda: None}[kind]()
    return outcome(lambda: client.call("conformance", "key", key=about))


def unheld():
    return outcome(lambda: client.call("exclusive", "echo", key=1))


def gathered(parts, numbers=()):
    ended = []
    for part in parts:
        mask = sum(1 << place for place, number in enumerate(numbers) if number in part.keys)
        ended.append(f"{mask}:OK:{part.reply.text()}" if part.error is None else f"{mask}:{part.error.name}")
    return " ".join([str(len(ended)), *sorted(ended)])


def scatter(rest=""):
    numbers = [int(word) for word in rest.split()]
    return gathered(client.scatter("parts", "sum", keys=numbers), numbers)


def crowd():
    """As many calls as may wait on a resource that nobody holds, and one more."""
    waiting = [helper.submit("patient", "echo", key=1) for _ in range(8)]
    return f"{len(waiting)} {outcome(lambda: helper.call('patient', 'echo', key=1))}"


def connect(bus):
    try:
        trine.connect(bus).close()
    except trine.Error as error:
        return error.name
    return "OK"


#: What was begun, and is to be waited for by a later command.
begun = {}


def begin(rest):
    begun["call"] = client.submit(*rest.split())
    return "OK"


def end():
    return outcome(begun.pop("call").wait)


def begin_scatter(rest):
    numbers = [int(word) for word in rest.split()]
    begun["parts"] = client.scatter("parts", "sum", keys=numbers), numbers
    return "OK"


def end_scatter():
    return gathered(*begun.pop("parts"))


def scatter_all(most):
    return gathered(client.scatter_all("parts", "sum", most=int(most)))


for line in sys.stdin:
    command, _, rest = line.rstrip("\n").partition(" ")
    print(globals()[command](*([rest] if rest else [])), flush=True)
