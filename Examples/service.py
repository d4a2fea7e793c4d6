# SPDX-License-Identifier: Apache-2.0
# A service in Python that keeps what it should not, for docs/walkthroughs/python.md: each request's parsed body goes
# into a list that nothing empties. It takes a request a line from standard input, and one at the start by itself.

import json
import sys

history = []


def parse(line):
    return json.loads(line)


def handle(line):
    body = parse(line)
    history.append(body)
    return sum(body["prices"])


for number in range(20_000):
    handle(json.dumps({"order": number, "prices": [number % 7 + 0.5] * 10, "name": "order %d" % number}))
print("ready", flush=True)
for line in sys.stdin:
    print(handle(line), flush=True)
