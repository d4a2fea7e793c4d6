// SPDX-License-Identifier: Apache-2.0
// The bytes that wait to be written to one destination: a ring of fixed capacity, so that a destination that takes
// nothing costs a known amount of memory.
//
//     start            taken            appended          capacity
//       |  free          |###waiting######|   free            |      waiting bytes may wrap around the end
//
// Invariants: taken <= appended <= taken + capacity; both only grow. Bytes between them don't move and don't change,
// so the kernel may read them at any time (a write in progress). The memory comes from mmap: a page takes memory when
// it is first used, and pages may be registered with io_uring.

import Glibc
import SystemAccess

/// Owns the memory of one destination's waiting bytes. Used by one thread.
struct ByteRing: ~Copyable {
  let start: UnsafeMutableRawPointer
  /// Bytes, a power of two.
  let capacity: Int
  /// Bytes ever written to the destination, and ever appended.
  private(set) var taken: UInt64 = 0
  private(set) var appended: UInt64 = 0

  /// `capacity`: a power of two from 4096.
  init(capacity: Int) throws(Complaint) {
    precondition(capacity >= 4096 && capacity & (capacity - 1) == 0, "capacity of a byte ring")
    let memory = mmap(nil, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory, memory != MAP_FAILED else {
      throw Complaint(
        .obstacle, what: "cannot get \(capacity) bytes for a destination of events: \(systemWords(errno))",
        advice: "stop other consumers, or allow more memory", code: errno)
    }
    start = memory
    self.capacity = capacity
  }

  deinit { munmap(start, capacity) }

  /// Bytes that wait.
  var waiting: Int { Int(appended - taken) }
  /// Bytes that can be appended.
  var room: Int { capacity - waiting }

  /// Appends all of `bytes`; they must fit.
  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard let source = bytes.baseAddress else { return }
    precondition(bytes.count <= room, "a byte ring never overflows")
    let at = Int(appended & UInt64(capacity - 1))
    let first = min(bytes.count, capacity - at)
    (start + at).copyMemory(from: source, byteCount: first)
    if first < bytes.count { start.copyMemory(from: source + first, byteCount: bytes.count - first) }
    appended += UInt64(bytes.count)
  }

  /// The longest run of waiting bytes that lies in one piece, from the oldest on: its place in the memory.
  var contiguous: Range<Int> {
    let at = Int(taken & UInt64(capacity - 1))
    return at..<at + min(waiting, capacity - at)
  }

  /// The oldest `count` bytes have been written.
  mutating func take(_ count: Int) {
    precondition(count >= 0 && count <= waiting, "only waiting bytes are taken")
    taken += UInt64(count)
  }

  /// Drops all waiting bytes; none of them may be in a write.
  mutating func clear() { taken = appended }
}
