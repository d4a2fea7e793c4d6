# A server that answers `top` as a script says, for what allocsctl makes of answers that a server of now gives rarely:
#
#   scripted_server.py SOCKET old        one that does not know the parameter `totals`
#   scripted_server.py SOCKET older      one that knows it, and has no word of its own for a process without totals
#   scripted_server.py SOCKET emptied    whose group has blocks at the first question, and none later
#   scripted_server.py SOCKET lies A B   each of whose numbers is A at the first question, and B later, as written here
#
# Says "listening" when it does, and one line for each question: its beginning.

import http.server
import json
import os
import socketserver
import sys

LOOK = {
    "pid": 4242, "command": ["/usr/bin/old"], "total": {"bytes": 960, "blocks": 10}, "site_count": 1,
    "sites": [{"key": "0x1000/0/0/f", "bytes": 960, "blocks": 10, "function": "malloc", "stack": []}],
    "group": "site",
}


# All that an answer may have, with a number that stands for each.
LIE = {
    "pid": 77, "command": ["/usr/bin/liar"], "site_count": 77, "group_count": 77, "lost_blocks": 77, "exit_status": 77,
    "total": {"bytes": 77, "blocks": 77, "allocated_bytes": 77, "allocated_blocks": 77, "oldest_seconds": 77},
    "marks": [{"name": "here", "age_seconds": 77}], "total_seconds": 77,
    "sites": [
        {
            "key": "%s/77/77/f" % key, "bytes": 77, "blocks": 77, "allocated_bytes": 77, "allocated_blocks": 77,
            "oldest_seconds": 77, "newest_seconds": 77, "parts": [[77, 77]] * 65, "thread": {"id": 77, "name": "t"},
            "name": "named", "function": "malloc",
            "stack": [{"pc": "0x77", "module": "/m", "function": "long_name_" * 12, "file": "f.c", "line": 77, "offset": 77}],
        } for key in ("0x77", "77", "0xffffffffffffffff", "")
    ],
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self):
        print(self.path[:200], flush=True)
        Handler.asked += 1
        status, answer = 200, LOOK
        if sys.argv[2] == "old" and "totals" in self.path:
            status, answer = 400, {"error": "there is no parameter \"totals\" here — the parameters are: group, limit"}
        if sys.argv[2] == "emptied" and Handler.asked > 1:
            status, answer = 404, {"error": "no live block is in the group — there are others", "no_such": "group"}
        if sys.argv[2] == "older" and "sort=rate" in self.path:
            status, answer = 500, {"error": "process 4242 does not keep what it has ever allocated — start it anew"}
        text = json.dumps(LIE if sys.argv[2] == "lies" else answer, ensure_ascii=False, separators=(",", ":"))
        if sys.argv[2] == "lies":
            text = text.replace("77", sys.argv[3 if Handler.asked == 1 else 4])
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_):
        pass

    def address_string(self):
        return "local"


class Server(socketserver.UnixStreamServer):
    def finish_request(self, request, client_address):
        self.RequestHandlerClass(request, ("local", 0), self)


server = Server(sys.argv[1], Handler)
os.chmod(sys.argv[1], 0o600)
print("listening", flush=True)
while True:
    server.handle_request()
