/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol of an event ring (allocs_ring.h, Rings.swift, Segment+Rings.swift), for all interleavings, and for all
 * orders in which a processor may let plain stores to different words become visible.
 *
 * A ring of CAPACITY records of two words, announced CHUNK at a time. The writer stores `reserved`, makes a release
 * fence, stores the words of records, and after each record `written` with release. Stores wait in a buffer for each
 * word and drain in any order between the words; a fence, and a release before its own store, waits until all that were
 * made before are in memory.
 *
 * The reader loads `written`, copies the two words of any record below it, in either order, then loads `reserved`. A
 * record at or above `reserved` - CAPACITY must be whole and be the one asked for: its words hold its position, plus
 * one.
 *
 * refuted with -DNO_FENCE: `reserved` is stored and no fence follows, so words of the next lap may be seen before it.
 * refuted with -DPLAIN_WRITTEN: `written` is stored without release, so it may be seen before its record.
 * refuted with -DCHECK_FIRST: the reader loads `reserved` before it copies.
 * refuted with -DANNOUNCE_LATE: `reserved` is stored behind the records of its chunk.
 */

#define CAPACITY 4
#define CHUNK 2
#define RECORDS 8

byte reserved = 0, written = 0, first[CAPACITY], second[CAPACITY];  /* memory */
/* Stores that wait: two at most for a word; for `reserved` and `written` they only grow. */
byte reserved_waiting = 0, written_waiting = 0, written_next = 0;
byte first_waiting[CAPACITY], second_waiting[CAPACITY];

#define DRAINED (reserved_waiting == 0 && written_waiting == 0 && \
  first_waiting[0] + first_waiting[1] + first_waiting[2] + first_waiting[3] == 0 && \
  second_waiting[0] + second_waiting[1] + second_waiting[2] + second_waiting[3] == 0)

active proctype Drain() {
  byte i;
end:
  do
  :: atomic { reserved_waiting > 0 -> reserved = reserved_waiting; reserved_waiting = 0 }
  :: atomic { written_waiting > 0 -> written = written_waiting; written_waiting = written_next; written_next = 0 }
  :: atomic { first_waiting[0] > 0 -> first[0] = first_waiting[0]; first_waiting[0] = 0 }
  :: atomic { first_waiting[1] > 0 -> first[1] = first_waiting[1]; first_waiting[1] = 0 }
  :: atomic { first_waiting[2] > 0 -> first[2] = first_waiting[2]; first_waiting[2] = 0 }
  :: atomic { first_waiting[3] > 0 -> first[3] = first_waiting[3]; first_waiting[3] = 0 }
  :: atomic { second_waiting[0] > 0 -> second[0] = second_waiting[0]; second_waiting[0] = 0 }
  :: atomic { second_waiting[1] > 0 -> second[1] = second_waiting[1]; second_waiting[1] = 0 }
  :: atomic { second_waiting[2] > 0 -> second[2] = second_waiting[2]; second_waiting[2] = 0 }
  :: atomic { second_waiting[3] > 0 -> second[3] = second_waiting[3]; second_waiting[3] = 0 }
  od
}

inline announce() {
  atomic { reserved_waiting == 0 -> reserved_waiting = position - position % CHUNK + CHUNK };
#ifndef NO_FENCE
  atomic { DRAINED -> skip }
#endif
}

active proctype Writer() {
  byte position = 0, i;
  do
  :: position < RECORDS ->
#ifndef ANNOUNCE_LATE
       if :: position % CHUNK == 0 -> announce() :: else fi;
#endif
       i = position % CAPACITY;
       atomic { first_waiting[i] == 0 -> first_waiting[i] = position + 1 };
       atomic { second_waiting[i] == 0 -> second_waiting[i] = position + 1 };
#ifdef ANNOUNCE_LATE
       if :: position % CHUNK == CHUNK - 1 -> announce() :: else fi;
#endif
#ifdef PLAIN_WRITTEN
       atomic { written_next == 0 ->
         if :: written_waiting == 0 -> written_waiting = position + 1 :: else -> written_next = position + 1 fi };
#else
       atomic { DRAINED -> written_waiting = position + 1 };
#endif
       position++
  :: else -> break
  od
}

active proctype Reader() {
  byte last, position = 0, one, two, end;
  last = written;
#ifdef CHECK_FIRST
  end = reserved;
#endif
  if :: last > 0 :: else -> goto done fi;
  do
  :: position + 1 < last -> position++
  :: break
  od;
  if
  :: one = first[position % CAPACITY]; two = second[position % CAPACITY]
  :: two = second[position % CAPACITY]; one = first[position % CAPACITY]
  fi;
#ifndef CHECK_FIRST
  end = reserved;
#endif
  if
  :: position + CAPACITY >= end -> assert(one == position + 1 && two == position + 1)
  :: else -> skip  /* counted as lost */
  fi;
done: skip
}
