"""The smallest server: ``python -I -S _little.py tcp|udp plain|reuse|fd NUMBER TOKEN``.

NUMBER is a port of 127.0.0.1 to bind, or of ``fd`` the descriptor that was handed over. It answers
everybody with TOKEN, so that a client knows whose server it talks to.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Serve until the end."""
    transport, manner, number, token = sys.argv[1:]
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    if manner == "fd":
        server = socket.socket(fileno=int(number))
    else:
        server = socket.socket(socket.AF_INET, kind)
        if manner == "reuse":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(number)))
        if transport == "tcp":
            server.listen()
    while True:
        if transport == "tcp":
            client, _ = server.accept()
            with client:
                client.sendall(token.encode())
                # Who closes first has the TIME_WAIT, and here a restart without SO_REUSEADDR would
                # meet it.
                client.recv(1)
        else:
            _, client_address = server.recvfrom(64)
            server.sendto(token.encode(), client_address)


if __name__ == "__main__":
    main()
