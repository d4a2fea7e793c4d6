/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol of a slot (allocs_slot.h, Index.swift), for all interleavings, and for all orders in which a
 * processor may let plain stores to different words become visible.
 *
 * A block is allocated and freed again and again with large sizes, each generation by its owner: the tail and then the
 * head, both with release; to free it, the head is set to 0. Stores wait in a buffer for each word and drain in any
 * order between the words; a release waits until both are empty. (An owner that is another thread has synchronized with
 * the last through the allocator, which empties the buffers: that allows fewer orders, not more.)
 *
 * Heads of successive generations may be equal: same context, same tick, sizes that agree in their low bits. So
 * ALIKE of them carry the same bits, and the tail's check bits don't tell them apart either.
 *
 * The reader (Arena.allocation) loads head, tail, head, in this order: all with acquire. What it returns must have been
 * the truth at some moment during its read: a generation that was live then, with that generation's own tail.
 *
 * refuted with -DPLAIN_TAIL: a tail stored without release may be seen before the erased head of the generation before
 * it.
 */

#define GENERATIONS 4
#define ALIKE(generation) ((generation + 1) / 2)  /* the head's bits: two generations each share theirs */

byte head = 0, tail = 0;            /* memory; 0: empty. The tail's value is the generation, its size. */
byte head_buffer[2], head_waiting = 0;
byte tail_buffer[2], tail_waiting = 0;

/* Generation g was live at some moment since the reader began: its head was in memory, unerased. */
bool was_live[GENERATIONS + 1];
byte live = 0;                      /* generation whose head is in memory, 0 if none */
byte head_generation[2];            /* that of the buffered stores to head */
bool reading = false;

inline buffer_head(value, generation) {
  atomic { head_waiting < 2 ->
    head_buffer[head_waiting] = value; head_generation[head_waiting] = generation; head_waiting++ }
}
inline buffer_tail(value) {
  atomic { tail_waiting < 2 -> tail_buffer[tail_waiting] = value; tail_waiting++ }
}
inline release() { atomic { head_waiting == 0 && tail_waiting == 0 -> skip } }

active proctype Drain() {
end:
  do
  :: atomic { head_waiting > 0 ->
       head = head_buffer[0]; live = head_generation[0];
       if :: live > 0 -> was_live[live] = true :: else fi;
       head_buffer[0] = head_buffer[1]; head_generation[0] = head_generation[1]; head_waiting-- }
  :: atomic { tail_waiting > 0 -> tail = tail_buffer[0]; tail_buffer[0] = tail_buffer[1]; tail_waiting-- }
  od
}

active proctype Owner() {
  byte generation = 1;
  do
  :: generation <= GENERATIONS ->
#ifndef PLAIN_TAIL
       release();
#endif
       buffer_tail(generation);
       release();
       buffer_head(ALIKE(generation), generation);
       buffer_head(0, 0);
       generation++
  :: else -> break
  od
}

active proctype Reader() {
  byte first, second, size, g;
  atomic {
    g = 1;
    do :: g <= GENERATIONS -> was_live[g] = false; g++ :: else -> break od;
    if :: live > 0 -> was_live[live] = true :: else fi
  }
  first = head;
  if
  :: first == 0 -> skip
  :: else ->
       size = tail;
       second = head;
       if
       :: second == first && size > 0 && ALIKE(size) == first -> assert(was_live[size])
       :: else -> skip                /* it looks again, or the check bits tell */
       fi
  fi
}
