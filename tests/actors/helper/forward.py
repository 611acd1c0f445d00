"""Forwards one TCP port, as ssh -L and docker -p do: forward.py LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT.
Says "ready" when it listens; ends with its input."""
import socket
import sys
import threading


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(listener, to):
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(to)
        for pair in ((near, far), (far, near)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
threading.Thread(target=serve, args=(listener, (sys.argv[3], int(sys.argv[4]))), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
