# SPDX-License-Identifier: Apache-2.0
"""Writes a document as JSON and reads it again, as often as the argument says; prints a checksum."""

import json
import sys

document = {
    "users": [
        {
            "id": i,
            "name": f"user {i}",
            "tags": [f"tag{j}" for j in range(i % 7)],
            "score": i / 3,
            "active": i % 2 == 0,
            "address": {"street": f"{i} High Street", "city": None},
        }
        for i in range(2000)
    ]
}
total = 0
for turn in range(int(sys.argv[1])):
    document["turn"] = turn
    text = json.dumps(document)
    total += len(text) + len(json.loads(text)["users"])
print(total)
