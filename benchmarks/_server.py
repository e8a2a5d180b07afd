"""The server of the readiness benchmark: ``_server.py PORT FIFO SECONDS``, with nothing but socket.

It waits *SECONDS* before it listens on 127.0.0.1:PORT, writes the monotonic clock into FIFO as soon
as listen() has returned, says so on its output, and serves until SIGTERM.
"""

import os
import socket
import sys
import time

port, fifo, delay_s = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
stamp = os.open(fifo, os.O_WRONLY)
time.sleep(delay_s)
server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", port))
server.listen()
os.write(stamp, b"%d\n" % time.clock_gettime_ns(time.CLOCK_MONOTONIC))
print("listening", flush=True)
while True:
    server.accept()[0].close()
