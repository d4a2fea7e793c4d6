# Reads a trace by Perfetto's own description of it (scripts/fetch-perfetto): perfetto_trace.py DIRECTORY TRACE. Says as JSON
# what its heap profiles hold, and fails on a field that the description doesn't have, and on a name that is used before it is there.

import json
import sys

sys.path.insert(0, sys.argv[1])

from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2


def check_fields(message):
    assert len(UnknownFieldSet(message)) == 0, f"unknown fields in {type(message).__name__}"
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if field.is_repeated else [value]:
                check_fields(part)


trace = perfetto_trace_pb2.Trace()
with open(sys.argv[2], "rb") as file:
    trace.ParseFromString(file.read())
check_fields(trace)

names = {"function_names": {}, "mapping_paths": {}, "build_ids": {}, "mappings": {}, "frames": {}, "callstacks": {}}
said = {"processes": [], "dumps": [], "functions": [], "modules": []}
expected_index = 0
samples = {}
for position, packet in enumerate(trace.packet):
    cleared = perfetto_trace_pb2.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    assert bool(packet.sequence_flags & cleared) == (position == 0)
    for kind, known in names.items():
        for entry in getattr(packet.interned_data, kind):
            assert entry.iid != 0 and entry.iid not in known, f"{kind} {entry.iid} comes twice"
            known[entry.iid] = entry
    for mapping in packet.interned_data.mappings:
        assert mapping.build_id in names["build_ids"]
        assert all(part in names["mapping_paths"] for part in mapping.path_string_ids)
    for frame in packet.interned_data.frames:
        assert frame.mapping_id in names["mappings"]
        assert frame.function_name_id == 0 or frame.function_name_id in names["function_names"]
    for stack in packet.interned_data.callstacks:
        assert stack.frame_ids and all(frame in names["frames"] for frame in stack.frame_ids)
    for process in packet.process_tree.processes:
        said["processes"].append({"pid": process.pid, "command": list(process.cmdline)})
    if not packet.HasField("profile_packet"):
        continue
    profile = packet.profile_packet
    assert profile.index == expected_index
    expected_index += 1
    (dump,) = profile.process_dumps
    for sample in dump.samples:
        assert sample.callstack_id in names["callstacks"] and sample.callstack_id not in samples
        samples[sample.callstack_id] = sample
    if profile.continued:
        continue
    fields = {"allocated": "self_allocated", "freed": "self_freed", "allocations": "alloc_count", "frees": "free_count"}
    sums = {key: sum(getattr(sample, field) for sample in samples.values()) for key, field in fields.items()}
    said["dumps"].append({"pid": dump.pid, "time": dump.timestamp, "interval": dump.sampling_interval_bytes, **sums})
    samples = {}

assert not samples, "the last dump has no end"
said["functions"] = [name.str.decode() for name in names["function_names"].values()]
said["modules"] = [name.str.decode() for name in names["mapping_paths"].values()]
print(json.dumps(said))
