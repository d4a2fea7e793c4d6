// SPDX-License-Identifier: Apache-2.0
// The control file: PID.STARTTIME.ctl beside the segment, mode 0600, made by the agent. It is the
// one file of a process that others write: it says whether events are recorded, and where their
// consumers are.
//
//   offset
//   0      +--------------------------------------+
//          | struct allocs_control                | one page
//   4096   +--------------------------------------+
//          | positions[consumer][ring], uint64_t  | ALLOCS_CONSUMER_COUNT × ALLOCS_RING_COUNT,
//          |                                      | holes until used
//          +--------------------------------------+
//
// Switch. `events` is the only word of the file that a hook looks at: 0 means off, any other value
// is the number of this period of recording. A consumer that turns events on exchanges 0 for
// ++periods (an atomic add). A consumer that leaves, or the agent when it expels the last consumer,
// exchanges the value for 0 if `always` is 0; then it looks through the consumers again, and turns
// events on again if one has come. Each thread notes in its ring where a period begins (RESUMED or
// THREAD_START).
//
// Consumer. A program that wants events becomes a consumer for as long as it wants them:
//
// - To attach, it exchanges the `owner` of a free entry, which is 0, for a number of its own, which
//   is not 0. It sets the rest of the entry (policy, wait_ns; for LOSSLESS all of its positions).
//   It stores the low half of `owner`, which is not 0 either, in `ready` (release): the entry is
//   complete while the two agree. It adds 1 to `changes`, and turns events on.
// - To keep its entry, it adds to `beat` at least every ALLOCS_LEASE_NANOSECONDS / 4, and looks
//   whether `owner` is still its own number. While events are made, the agent expels a consumer
//   (exchanges `owner` for 0) whose beat does not change for ALLOCS_LEASE_NANOSECONDS by the
//   agent's clock. So no consumer's death keeps events on or holds the target up, and nobody needs
//   to clean up. A consumer that finds that it was expelled attaches again, and has lost the
//   records that were overwritten meanwhile.
// - To leave, it exchanges `owner` for 0, adds 1 to `changes`, and turns events off if it was the
//   last.
//
// Policy. With OVERWRITE the target never waits. With LOSSLESS, before a thread overwrites a record
// that this consumer has not taken (the consumer's position of that ring is not above the record),
// the thread waits for the consumer, at most `wait_ns`. Then the thread goes on, counts (`overrun`
// of the ring), and does not wait again until that position moves. To wait, the thread sets
// `waiting` of its ring and waits on a futex (not a private one) that is the low half of the
// position. A consumer that has stored a position and finds `waiting` set wakes the thread.
//
// Threat: this file is written by others. The agent reads each word once, and whatever stands
// there, the agent does no worse than to record, to stop recording, or to wait as long as it was
// told to at its start. Only the file's owner and root may open it. To cut the file short kills the
// target, as cutting the segment does: nobody but those two can.

#ifndef ALLOCS_CONTROL_H
#define ALLOCS_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "allocs_ring.h"

#define ALLOCS_CONTROL_MAGIC 0x4C5443434F4C4C41ull  // "ALLOCCTL" in memory order
#define ALLOCS_CONTROL_VERSION 1u
#define ALLOCS_CONSUMER_COUNT 8u
#define ALLOCS_CONTROL_POSITIONS_OFFSET 4096u
#define ALLOCS_LEASE_NANOSECONDS 2000000000ull
#define ALLOCS_WAIT_NANOSECONDS_DEFAULT 100000000ull
#define ALLOCS_WAIT_NANOSECONDS_MAX 10000000000ull

enum { ALLOCS_CONTROL_SIZE = 4096 + 8 * 4096 * 8 };

enum allocs_policy {
  ALLOCS_POLICY_OVERWRITE = 0,
  ALLOCS_POLICY_LOSSLESS = 1
};

// Whether events stay on without consumers.
enum allocs_always {
  ALLOCS_WHILE_WANTED = 0,
  ALLOCS_ALWAYS = 1,          // ALLOCS_EVENTS=1
  // ALLOCS_RECORDER: until the recorder that started the program is attached, and sets
  // WHILE_WANTED.
  ALLOCS_UNTIL_RECORDED = 2
};

struct allocs_consumer {
  uint64_t owner;      // 0: the entry is free
  uint64_t beat;
  uint64_t wait_ns;    // LOSSLESS: how long a thread waits at most; 0: as long as ALLOCS_EVENTS_WAIT says
  uint32_t policy;     // enum allocs_policy
  uint32_t ready;      // the low half of `owner`: the entry is complete
  uint32_t pid;        // who it is, for people
  uint32_t reserved;
  uint64_t reserved_words[3];
};

struct allocs_control {
  uint32_t events;        // alone in its cache line: read by every hook
  uint32_t unused[15];
  uint64_t magic;         // ALLOCS_CONTROL_MAGIC, stored last (release)
  uint32_t version;
  uint32_t size;          // ALLOCS_CONTROL_SIZE
  uint64_t start_time;    // as in the segment's header
  uint32_t pid;
  uint32_t always;        // enum allocs_always
  uint32_t periods;       // of recording, begun so far
  uint32_t changes;       // times that a consumer became ready or left
  uint64_t reserved_words[3];
  struct allocs_consumer consumers[ALLOCS_CONSUMER_COUNT];
};

_Static_assert(sizeof(struct allocs_consumer) == 64, "consumer");
_Static_assert(offsetof(struct allocs_control, magic) == 64, "control.magic");
_Static_assert(offsetof(struct allocs_control, start_time) == 80, "control.start_time");
_Static_assert(offsetof(struct allocs_control, periods) == 96, "control.periods");
_Static_assert(offsetof(struct allocs_control, consumers) == 128, "control.consumers");
_Static_assert(sizeof(struct allocs_control) <= ALLOCS_CONTROL_POSITIONS_OFFSET, "control fits its page");
_Static_assert(ALLOCS_CONTROL_SIZE ==
                   ALLOCS_CONTROL_POSITIONS_OFFSET + ALLOCS_CONSUMER_COUNT * ALLOCS_RING_COUNT * 8,
               "control size");

// Where the position of consumer `consumer` in ring `ring` stands, in bytes from the start of the
// file.
static inline uint64_t allocs_control_position_offset(uint32_t consumer, uint32_t ring) {
  return ALLOCS_CONTROL_POSITIONS_OFFSET + ((uint64_t)consumer * ALLOCS_RING_COUNT + ring) * 8;
}

// Wakes the thread that waits for this position to move. The agent does not use it.
extern void allocs_wake_writer(uint64_t *position);

#endif
