"""Fills a key-value service, and asks it: keyvalue_client.py [BUS]"""

import sys

import trine

with trine.connect(sys.argv[1] + "/" if len(sys.argv) > 1 else None) as client:
    for i in range(1000):
        client.post("store", "put", f"key {i}\0value {i}")  # one way: nobody waits
    # A worker takes what it is given in order, so the gets come after the puts.
    found = 0
    for tens in range(0, 1000, 10):
        asked = [client.submit("store", "get", f"key {i}\0") for i in range(tens, tens + 10)]
        found += sum(pending.wait().text() == f"value {i}" for i, pending in enumerate(asked, tens))
    print(f"{found} values found")

    # A large value, built where the worker reads it.
    loan = client.loan("store", "put", 3000)
    loan.data[:] = b"large\0".ljust(3000, b"x")
    loan.call()
    print(f"a value of {len(client.call('store', 'get', b'large' + bytes(1)))} bytes")

    try:
        client.call("store", "get", "no such\0")
    except trine.WorkerError as error:
        print(f"{error.name} {error.code}: {error.message}")
