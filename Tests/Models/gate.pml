/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate of fork (Gate.swift, Hook.swift), for all interleavings, and for stores that wait in a processor's buffer.
 *
 * Two threads call hooks again and again. A hook takes `self`, loads its region table, and if there is one writes to
 * the segment, plainly; then it gives `self` back. Its plain stores wait in a buffer, in order, and drain at any time:
 * so a load may overtake the stores before it. Without a table it waits at the gate: it sets `at_gate`, a full fence,
 * waits until the gate is open, clears `at_gate`, and begins again; the closing thread gives the table back.
 *
 * A third thread forks: it makes the gate's count odd, takes the tables away, has membarrier empty all buffers, and
 * waits until each thread is outside its hooks or at the gate. From then until it opens the gate, it copies: nobody may
 * write, or have begun to. It does so twice.
 *
 * refuted with -DNO_MEMBARRIER: a hook has taken `self` in its buffer only, and found its table before it was taken
 * away.
 * refuted with -DNO_WAIT: a hook that found its table still writes.
 * refuted with -DTABLE_FIRST: a hook that loads its table before it takes `self` is not seen, barrier or not.
 */

#define THREADS 2
#define ROUNDS 2

/* Memory. */
bool inside[THREADS];       /* `self` is taken */
bool table[THREADS];        /* the region table is there */
bool at_gate[THREADS];
bool closed = false;
byte writing = 0;           /* threads between finding their table and having written */
bool copying = false;

/* The store to `self` that waits in a thread's buffer: at most one, and its value. */
bool waits[THREADS], value[THREADS];

inline store_inside(what) {
  /* A second store to the same word lets the first drain. */
  atomic { if :: waits[me] -> inside[me] = value[me] :: else fi; waits[me] = true; value[me] = what }
}
inline fence(who) { atomic { if :: waits[who] -> inside[who] = value[who]; waits[who] = false :: else fi } }

active proctype Drain() {
end:
  do
  :: atomic { waits[0] -> inside[0] = value[0]; waits[0] = false }
  :: atomic { waits[1] -> inside[1] = value[1]; waits[1] = false }
  od
}

active [THREADS] proctype Hooked() {
  byte me = _pid - 1;
  byte calls = 0;
  bool found;
  do
  :: calls < ROUNDS ->
#ifdef TABLE_FIRST
       atomic { found = table[me]; if :: found -> writing++ :: else fi }
       store_inside(true);
#else
       store_inside(true);
       atomic { found = table[me]; if :: found -> writing++ :: else fi }
#endif
       do
       :: found -> break
       :: else ->
            at_gate[me] = true;
            fence(me);
            !closed;
            at_gate[me] = false;
            fence(me);
            atomic { found = table[me]; if :: found -> writing++ :: else fi }
       od;
       assert(!copying);            /* the write to the segment */
       /* Its stores drain before the one that gives `self` back: they are in order. */
       atomic { writing--; found = false };
       store_inside(false);
       calls++
  :: else -> break
  od;
  fence(me)
}

active proctype Forks() {
  byte round = 0, thread;
  atomic { table[0] = true; table[1] = true }
  do
  :: round < 2 ->
       closed = true;
       thread = 0;
       do :: thread < THREADS -> table[thread] = false; thread++ :: else -> break od;
#ifndef NO_MEMBARRIER
       thread = 0;
       do :: thread < THREADS -> fence(thread); thread++ :: else -> break od;
#endif
#ifndef NO_WAIT
       thread = 0;
       do :: thread < THREADS -> (at_gate[thread] || !inside[thread]); thread++ :: else -> break od;
#endif
       atomic { copying = true; assert(writing == 0) }
       copying = false;
       thread = 0;
       do :: thread < THREADS -> table[thread] = true; thread++ :: else -> break od;
       closed = false;
       round++
  :: else -> break
  od
}
