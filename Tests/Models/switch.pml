/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The switch of events (allocs_control.h, EventConsumer.swift, Consumers.swift): consumers come and go, one dies and is
 * expelled by a thread of the agent, in all interleavings. When all have done what they do, events are on if an entry
 * is taken. They may be on without one: who found a newcomer turns them on again, and the newcomer may have left by
 * then. So the agent looks again from time to time, and after that events are on if and only if an entry is taken.
 *
 * Exchanges and atomic adds are full fences on the words; the fence behind the exchange of `events` is there because
 * what follows is a look at other words. So every step here is one access to memory in order.
 *
 * refuted with -DLOOK_ONCE: who turns events off does not look again for one who came meanwhile.
 * refuted with -DTURN_ON_FIRST: who comes turns events on before it takes its entry.
 */

#define CONSUMERS 3
byte owner[CONSUMERS], events = 0, periods = 0, done = 0;

inline turn_on() {
  if
  :: events == 0 ->
       atomic { periods++; mine = periods };
       atomic { if :: events == 0 -> events = mine :: else fi }
  :: else
  fi
}

inline look() {
  i = 0; wanted = false;
  do
  :: i < CONSUMERS -> if :: owner[i] != 0 -> wanted = true :: else fi; i++
  :: else -> break
  od
}

inline turn_off_if_unwanted() {
  look();
  if
  :: !wanted ->
       mine = events;
       if
       :: mine != 0 ->
            atomic { exchanged = (events == mine); if :: exchanged -> events = 0 :: else fi };
            if
            :: exchanged ->
#ifndef LOOK_ONCE
                 look();
                 if :: wanted -> turn_on() :: else fi
#endif
            :: else
            fi
       :: else
       fi
  :: else
  fi
}

/* Number 0 stays, number 1 leaves, number 2 dies: the agent takes its entry. */
active [CONSUMERS] proctype Consumer() {
  byte me = _pid, i, mine;
  bool wanted, exchanged;
#ifdef TURN_ON_FIRST
  turn_on(); owner[me] = 1;
#else
  owner[me] = 1; turn_on();
#endif
  if
  :: me == 0 -> if :: owner[me] = 0; turn_off_if_unwanted() :: skip fi
  :: me == 1 -> owner[me] = 0; turn_off_if_unwanted()
  :: else
  fi;
  done++
}

active proctype Agent() {
  byte i, mine;
  bool wanted, exchanged;
  (owner[2] == 1) -> owner[2] = 0;
  turn_off_if_unwanted();
  done++
}

active proctype Judge() {
  byte i, mine;
  bool wanted, exchanged;
  (done == CONSUMERS + 1) -> assert(events != 0 || owner[0] + owner[1] + owner[2] == 0);
  turn_off_if_unwanted();
  assert((events != 0) == (owner[0] + owner[1] + owner[2] != 0))
}
