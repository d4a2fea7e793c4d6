# Objects of CPython whose blocks come from pymalloc: "live ADDRESS SIZE" for each, then "ready"; waits for the end of its input.
import sys

kept = [{"key %d" % i: (i, i + 1)} for i in range(5000)]
del kept[::3]
header = 16  # of an object that the garbage collector follows: in front of it
for item in kept[::10]:
    for key, pair in item.items():
        print("live", id(key), sys.getsizeof(key))
        print("live", id(pair) - header, sys.getsizeof(pair))
print("ready")
sys.stdout.flush()
sys.stdin.read()
