"""Traffic between hosts: TCP streams with a checked content, and numbered datagrams at a steady pace.

Each end is a process of its own (`python -m penstock.demo.traffic VERB ...`, started in a host by `receiver` and
`sender`), prints a line when it is ready and its result as one line of JSON when it ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from penstock.demo.hosts import Host

BLOCK = 1 << 20
NUMBER = struct.Struct("!q")
LAST = -1  # in place of a number: the sender has ended
SO_RCVBUFFORCE = 33


def receiver(host: Host, protocol: str, port: int, *options: str) -> subprocess.Popen[str]:
    """Start a receiver in a host and wait until it listens."""
    process = host.start(*_command(f"receive-{protocol}", str(port), *options))
    assert process.stdout is not None
    if process.stdout.readline().strip() != "listening":
        raise RuntimeError(f"no {protocol} receiver on port {port} of host {host.name}: it ended at once")
    return process


def sender(host: Host, protocol: str, address: str, port: int, *options: str) -> subprocess.Popen[str]:
    return host.start(*_command(f"send-{protocol}", address, str(port), *options))


def result(process: subprocess.Popen[str], timeout: float = 60) -> dict[str, Any]:
    """Wait for an end of the traffic and return what it tells. Raises RuntimeError when it failed."""
    output, _ = process.communicate(timeout=timeout)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, process.args[-6:]))} ended with exit code {process.returncode}")  # type: ignore[index]
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock.demo.traffic", *arguments]


def receive_tcp(options: argparse.Namespace) -> dict[str, Any]:
    """Take one connection and read it to its end."""
    with socket.create_server(("::", options.port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
    digest, buffer, received = hashlib.sha256(), memoryview(bytearray(BLOCK)), 0
    with connection:
        began = time.monotonic()
        while count := connection.recv_into(buffer):
            received += count
            if options.hash:
                digest.update(buffer[:count])
    seconds = time.monotonic() - began
    return {"bytes": received, "seconds": seconds, "sha256": digest.hexdigest() if options.hash else ""}


def send_tcp(options: argparse.Namespace) -> dict[str, Any]:
    """Send for a time or a number of bytes; the content never repeats within a block's length."""
    block = b"".join(hashlib.sha256(NUMBER.pack(index)).digest() for index in range(BLOCK // 32))
    digest, sent, began = hashlib.sha256(), 0, time.monotonic()
    deadline = began + options.seconds if options.seconds else float("inf")
    with socket.create_connection((options.address, options.port), timeout=10) as connection:
        while (left := options.bytes - sent) > 0 and time.monotonic() < deadline:
            # Each block starts a byte further on, so that blocks put in the wrong order are noticed.
            skip = sent // BLOCK % 4096
            piece = block[skip : skip + min(left, BLOCK)]
            connection.sendall(piece)
            if options.hash:
                digest.update(piece)
            sent += len(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(options.seconds + 30)
        connection.recv(1)  # until the receiver has read everything and closed
    return {"bytes": sent, "seconds": time.monotonic() - began, "sha256": digest.hexdigest() if options.hash else ""}


def receive_udp(options: argparse.Namespace) -> dict[str, Any]:
    """Take numbered datagrams until the last one, or until nothing came for `--idle` seconds."""
    seen, repeated, gap, longest, out_of_order, highest = set[int](), 0, 0.0, 0.0, 0, -1
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as endpoint:
        endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        _enlarge(endpoint)
        endpoint.bind(("::", options.port))
        print("listening", flush=True)
        endpoint.settimeout(options.idle)
        previous = None
        while True:
            try:
                data = endpoint.recv(65535)
            except TimeoutError:
                break
            (number,) = NUMBER.unpack_from(data)
            if number == LAST:
                break
            now = time.monotonic()
            if previous is not None and (gap := now - previous) > longest:
                longest = gap
            previous = now
            repeated += number in seen
            out_of_order += number < highest
            highest = max(highest, number)
            seen.add(number)
    return {"received": len(seen), "repeated": repeated, "out_of_order": out_of_order, "longest_gap": longest}


def _enlarge(endpoint: socket.socket) -> None:
    """Ask for a receive buffer that outlasts a pause of this process."""
    try:
        endpoint.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    except PermissionError:  # root of a user namespace only: the system's limit holds
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)


def send_udp(options: argparse.Namespace) -> dict[str, Any]:
    """Send numbered datagrams at a steady pace, then the last one a few times over."""
    family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
    filler, sent = bytes(max(0, options.size - NUMBER.size)), 0
    with socket.socket(family, socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((options.address, options.port))
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < options.seconds:
            due = int(elapsed * options.rate) + 1
            while sent < due:
                endpoint.send(NUMBER.pack(sent) + filler)
                sent += 1
            time.sleep(0.001)
        seconds = time.monotonic() - began
        for _ in range(3):
            time.sleep(0.1)
            try:
                endpoint.send(NUMBER.pack(LAST))
            except ConnectionRefusedError:  # the receiver has heard the first one and gone
                break
    return {"sent": sent, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(prog="penstock.demo.traffic", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    for name, run in (
        ("receive-tcp", receive_tcp),
        ("send-tcp", send_tcp),
        ("receive-udp", receive_udp),
        ("send-udp", send_udp),
    ):
        verb = verbs.add_parser(name, help=run.__doc__)
        verb.set_defaults(run=run)
        if name.startswith("send"):
            verb.add_argument("address")
        verb.add_argument("port", type=int)
        verb.add_argument("--seconds", type=float, default=0.0)
        verb.add_argument("--bytes", type=int, default=1 << 62)
        verb.add_argument("--hash", action="store_true")
        verb.add_argument("--rate", type=float, default=5000.0, help="datagrams a second")
        verb.add_argument("--size", type=int, default=64, help="bytes in a datagram")
        verb.add_argument("--idle", type=float, default=5.0, help="seconds without a datagram after which to end")
    options = parser.parse_args()
    print(json.dumps(options.run(options)), flush=True)


if __name__ == "__main__":
    main()
