# A client of allocsd that means no good: hostile_client.py SOCKET WHAT [NUMBER | PID ADDRESS]. Says what came of it, a word a line.
import socket
import sys
import threading
import time

path, what = sys.argv[1:3]


def connect():
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.connect(path)
    return connection


def post(pid, length):
    return f"POST /v1/processes/{pid}/query HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


if what == "silence":
    # A thousand connections, or as many as it is told, of which some begin to speak; held until standard input ends.
    held, failed = [], 0
    beginnings = [b"", b"GET /v1/pro", b"POST / HTTP/1.1\r\nContent-Le", post(1, 1000000) + b"0x1\n", b"\0" * 100]
    for number in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1000):
        try:
            connection = connect()
            connection.send(beginnings[number % len(beginnings)])
            held.append(connection)
        except OSError:
            failed += 1
    print("held", len(held), failed, flush=True)
    sys.stdin.read()
elif what == "until-refused":
    # Questions, each on a connection of its own, until one is refused for want of room. Several at a time, as there may be
    # none for a moment only.
    words, over, refused = b"no room for another connection of yours", time.monotonic() + 100, threading.Event()

    def ask():
        while time.monotonic() < over and not refused.is_set():
            answer = b""
            try:
                connection = connect()
                connection.sendall(b"GET /v1/processes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while piece := connection.recv(65536):
                    answer += piece
            except OSError:
                pass
            if b" 503 " in answer[:20] and words in answer:
                refused.set()

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    if refused.is_set():
        print(words.decode())
elif what == "flood":
    # A body of a gibibyte, as far as the server takes it; then the start of its answer.
    connection = connect()
    sent = 0
    try:
        connection.sendall(post(sys.argv[3], 1 << 30))
        block = b"0x1\n" * (1 << 18)
        while sent < 1 << 30:
            sent += connection.send(block)
    except OSError:
        pass
    answer = b""
    try:
        answer = connection.recv(64)
    except OSError:
        pass
    print("sent", sent)
    print("answer", answer.split(b"\r\n")[0].decode() or "none")
elif what == "endless":
    # A header that never ends.
    connection = connect()
    sent, answer = 0, b""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while sent < 1 << 28:
            sent += connection.send(b"X-Header: " + b"x" * 65536 + b"\r\n")
    except OSError:
        pass
    try:
        answer = connection.recv(64)
    except OSError:
        pass
    print("sent", sent)
    print("answer", answer.split(b"\r\n")[0].decode() or "none")
elif what == "pipeline":
    # Two hundred requests before the first answer is read, batches and single ones in turn.
    pid, address = sys.argv[3], int(sys.argv[4])
    connection = connect()
    requests = b""
    for number in range(200):
        if number % 2:
            body = "".join(f"{address + number}\n" for _ in range(50)).encode()
            requests += post(pid, len(body)) + body
        else:
            requests += f"GET /v1/processes/{pid}/query?address={address + number} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    connection.sendall(requests)
    stream = connection.makefile("rb")
    for number in range(200):
        status = stream.readline().split()[1]
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = b""
        if headers.get(b"transfer-encoding") == b"chunked":
            while (size := int(stream.readline(), 16)) > 0:
                body += stream.read(size)
                stream.readline()
            stream.readline()
        else:
            body = stream.read(int(headers[b"content-length"]))
        wanted = f'"address":"{address + number:#x}"'.encode()
        count = 50 if number % 2 else 1
        if status != b"200" or body.count(wanted) != count or body.count(b"\n") not in (count, count - 1):
            print("wrong", number, status.decode(), body[:200])
            sys.exit(1)
    print("right")
