"""A server of the benchmarks: ``_server.py PORT SECONDS [FIFO]``, with nothing but socket.

It waits *SECONDS* before it listens on 127.0.0.1:PORT, writes the monotonic clock into FIFO as soon
as listen() has returned, says so on its output, and answers whoever says something, until SIGTERM.
"""

import os
import socket
import sys
import time

port, delay_s, *fifo = int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]
stamps = [os.open(path, os.O_WRONLY) for path in fifo]
time.sleep(delay_s)
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
for stamp in stamps:
    os.write(stamp, b"%d\n" % time.clock_gettime_ns(time.CLOCK_MONOTONIC))
print("listening", flush=True)
while True:
    with server.accept()[0] as client:
        if client.recv(1024):  # a starter that polls says nothing
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
