// SPDX-License-Identifier: Apache-2.0
// Prints the numbers of the segment's layout, a name and a number a line, for segments.py: so that hostile segments
// follow the headers by themselves when these change.

#include <stdio.h>

#include "SharedLayout.h"

#define SHOW(name, value) printf("%s %llu\n", name, (unsigned long long)(value))
#define FIELD(structure, field) SHOW(#structure "." #field, offsetof(struct structure, field))
#define SIZE(structure) SHOW(#structure, sizeof(struct structure))

int main(void) {
#define SECTION(number, id, words, entry, capacity, most, presence, since)        \
  printf("section %s %d %llu %llu %d\n", #id, number, (unsigned long long)(entry), \
         (unsigned long long)(capacity), ALLOCS_SECTION_##presence);
  ALLOCS_SECTION_TABLE(SECTION)
  SHOW("magic", ALLOCS_MAGIC);
  SHOW("version", ALLOCS_LAYOUT_VERSION);
  SHOW("control_magic", ALLOCS_CONTROL_MAGIC);
  SHOW("control_version", ALLOCS_CONTROL_VERSION);
  SHOW("control_size", ALLOCS_CONTROL_SIZE);
  SHOW("consumers", ALLOCS_CONSUMER_COUNT);
  SHOW("page", ALLOCS_PAGE_SIZE);
  SHOW("region_shift", ALLOCS_REGION_SHIFT);
  SHOW("region_level0_offset", ALLOCS_REGION_LEVEL0_OFFSET);
  SHOW("arena_summary_offset", ALLOCS_ARENA_SUMMARY_OFFSET);
  SHOW("arena_slots_offset", ALLOCS_ARENA_SLOTS_OFFSET);
  SHOW("summary_shift", ALLOCS_SUMMARY_SHIFT);
  SHOW("ring_records_offset", ALLOCS_RING_RECORDS_OFFSET);
  SHOW("identity_clocks", ALLOCS_IDENTITY_CLOCKS);
  SHOW("identity_locked", ALLOCS_IDENTITY_LOCKED);
  SIZE(allocs_header);
  FIELD(allocs_header, layout_version);
  FIELD(allocs_header, header_size);
  FIELD(allocs_header, file_size);
  FIELD(allocs_header, pid);
  FIELD(allocs_header, uid);
  FIELD(allocs_header, start_time);
  FIELD(allocs_header, state);
  FIELD(allocs_header, flags);
  FIELD(allocs_header, clock);
  FIELD(allocs_header, sections);
  FIELD(allocs_header, counters);
  FIELD(allocs_header, region_level2);
  FIELD(allocs_header, command_size);
  FIELD(allocs_header, command);
  FIELD(allocs_header, monotonic_offset);
  FIELD(allocs_header, boottime_offset);
  FIELD(allocs_header, identity);
  SIZE(allocs_module);
  FIELD(allocs_module, start);
  FIELD(allocs_module, end);
  FIELD(allocs_module, bias);
  FIELD(allocs_module, state);
  FIELD(allocs_module, build_id_size);
  FIELD(allocs_module, build_id);
  FIELD(allocs_module, path);
  FIELD(allocs_module, path_size);
  SIZE(allocs_node);
  SIZE(allocs_thread);
  FIELD(allocs_thread, state);
  FIELD(allocs_thread, identity);
  SIZE(allocs_arena);
  FIELD(allocs_arena, region);
  FIELD(allocs_arena, level2);
  FIELD(allocs_arena, level1);
  SIZE(allocs_ring);
  FIELD(allocs_ring, written);
  FIELD(allocs_ring, reserved);
  FIELD(allocs_control, magic);
  FIELD(allocs_control, version);
  FIELD(allocs_control, size);
  FIELD(allocs_control, start_time);
  FIELD(allocs_control, pid);
  FIELD(allocs_control, consumers);
  SIZE(allocs_consumer);
  FIELD(allocs_consumer, owner);
  return 0;
}
