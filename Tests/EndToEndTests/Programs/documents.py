# Documents to JSON and back, with regular expressions, sorting, threads and a child process.
import hashlib
import json
import re
import subprocess
import sys
import threading

documents = [{"id": i, "name": "document %d" % (i * 7919 % 1000), "tags": [str(j) for j in range(i % 7)], "rate": i / 7} for i in range(2000)]
digest = hashlib.sha256()
for turn in range(15):
    text = json.dumps(documents, sort_keys=True)
    documents = json.loads(text)
    digest.update(text.encode())
print(digest.hexdigest())
print(len(re.findall(r"document (\d+)5\b", json.dumps(documents))))
results = [None] * 8

def work(number):
    results[number] = sum(len(json.dumps(d)) for d in documents[number::8])

threads = [threading.Thread(target=work, args=(i,), name="worker %d" % i) for i in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(results)
print(subprocess.run([sys.executable, "-c", "print(sum(range(1000)))"], capture_output=True, text=True).stdout.strip())
