"""A flood of one port, in a process of its own: `flood.py hold|churn ADDRESS PORT COUNT`, until standard input ends.

`hold` opens COUNT connections and keeps them. `churn` sends request after request, each on a new connection, COUNT at a
time. It prints a line when all have been tried, and how many connections or answers it had at the end.
"""

import resource
import select
import socket
import struct
import sys

# A connection is aborted rather than closed: a port of the client would otherwise be blocked for a minute.
ABORT = struct.pack("ii", 1, 0)
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
AT_ONCE = 500


def _connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    connection.connect_ex(address)
    return connection


def hold(address: tuple[str, int], count: int, ended: select.poll) -> int:
    """How many are open when standard input ends."""
    kept: list[socket.socket] = []
    while len(kept) < count:
        kept += (_connect(address) for _ in range(min(AT_ONCE, count - len(kept))))
        ended.poll(100)
    print("tried", flush=True)  # noqa: T201 the output
    ended.poll()
    # Even those that HAProxy has not accepted yet: the kernel has.
    return sum(not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for connection in kept)


def churn(address: tuple[str, int], count: int, ended: select.poll) -> int:
    """How many answers there were until standard input ends."""
    epoll, open_ones, answers = select.epoll(), dict[int, socket.socket](), 0

    def another() -> None:
        connection = _connect(address)
        open_ones[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLOUT | select.EPOLLERR)

    for _ in range(count):
        another()
    print("tried", flush=True)  # noqa: T201 the output
    while not ended.poll(0):
        for number, what in epoll.poll(0.1):
            connection = open_ones[number]
            if what == select.EPOLLOUT:
                connection.send(REQUEST)
                epoll.modify(connection, select.EPOLLIN)
                continue
            answers += what == select.EPOLLIN
            del open_ones[number]
            connection.close()
            another()
    return answers


def main() -> None:
    """Read the command line."""
    how, host, port, count = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    print({"hold": hold, "churn": churn}[how]((host, int(port)), int(count), ended), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
