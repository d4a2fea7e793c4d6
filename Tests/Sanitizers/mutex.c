// SPDX-License-Identifier: Apache-2.0
// The functions that a Mutex of Synchronization calls when another thread holds it, for ThreadSanitizer.
//
// The library's own waits in the kernel, by a priority-inheriting futex, and the kernel passes the lock on: an
// instrumented program never sees who released it to whom, and takes what the mutex protects for a race. These wait by
// trying again. They do not set the word's bit for waiting threads, so that unlocking always takes the short way, which
// is instrumented. Linked in front of the library; the names are mangled `_MutexHandle._lockSlow(_:)`,
// `_tryLockSlow()`, `_unlockSlow()`.
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SWIFT_METHOD __attribute__((swiftcall, visibility("default")))
#define SELF __attribute__((swift_context))

SWIFT_METHOD void lock_slow(uint32_t thread, SELF _Atomic uint32_t *word)
    __asm__("$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF");
SWIFT_METHOD bool try_lock_slow(SELF _Atomic uint32_t *word)
    __asm__("$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF");
SWIFT_METHOD void unlock_slow(SELF _Atomic uint32_t *word)
    __asm__("$s15Synchronization12_MutexHandleV11_unlockSlowyyF");

static bool take(_Atomic uint32_t *word, uint32_t thread) {
  uint32_t free = 0;
  return atomic_compare_exchange_strong_explicit(word, &free, thread, memory_order_acquire, memory_order_relaxed);
}

SWIFT_METHOD void lock_slow(uint32_t thread, SELF _Atomic uint32_t *word) {
  while (!take(word, thread)) sched_yield();
}
SWIFT_METHOD bool try_lock_slow(SELF _Atomic uint32_t *word) { return take(word, (uint32_t)syscall(SYS_gettid)); }
SWIFT_METHOD void unlock_slow(SELF _Atomic uint32_t *word) { atomic_store_explicit(word, 0, memory_order_release); }
