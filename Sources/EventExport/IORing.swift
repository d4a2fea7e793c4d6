// SPDX-License-Identifier: Apache-2.0
// The owner of one io_uring: its memory, its descriptor, the tables of what is registered with it.
//
// A ring is used by the thread that made it, and by no other (IORING_SETUP_SINGLE_ISSUER).

import CLiburing
import Glibc
import SystemAccess

/// Owns an io_uring. Not thread-safe.
struct IORing: ~Copyable {
  let ring: UnsafeMutablePointer<io_uring>
  private var freeFiles: [Int32] = []
  private var freeBuffers: [Int32] = []

  /// So many files, and so many pieces of memory, are registered at most. Others are used without registration.
  private static let tableSize: Int32 = 128

  /// Throws with `code` ENOSYS or EPERM where the kernel has no io_uring, or does not let this process have one.
  init(entries: UInt32) throws(Complaint) {
    ring = .allocate(capacity: 1)
    var code: Int32 = 0
    // From Linux 6.1 on, completions are handled when this thread asks for them, and don't interrupt it.
    for flags in [UInt32(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN), 0] {
      ring.initialize(to: io_uring())
      code = -io_uring_queue_init(entries, ring, flags)
      if code != EINVAL { break }
    }
    if code == 0, ring.pointee.features & UInt32(IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP) == 0 {
      io_uring_queue_exit(ring)
      code = ENOSYS
    }
    guard code == 0 else {
      ring.deallocate()
      throw Complaint(.obstacle, what: "io_uring is not to be had: \(systemWords(code))", code: code)
    }
    // The number of the kernel's workers, which write to files: enough for the files that are usually written to at
    // once, and few enough for the limit of tasks that a service has.
    var workers: [UInt32] = [8, 8]
    io_uring_register_iowq_max_workers(ring, &workers)
    if io_uring_register_files_sparse(ring, UInt32(Self.tableSize)) == 0 { freeFiles = Array(0..<Self.tableSize) }
    if io_uring_register_buffers_sparse(ring, UInt32(Self.tableSize)) == 0 { freeBuffers = Array(0..<Self.tableSize) }
  }

  deinit {
    io_uring_queue_exit(ring)
    ring.deallocate()
  }

  /// An empty entry of the submission queue. If none is left, the queued entries are submitted first.
  func entry() -> UnsafeMutablePointer<io_uring_sqe>? {
    if let entry = io_uring_get_sqe(ring) { return entry }
    io_uring_submit(ring)
    return io_uring_get_sqe(ring)
  }

  /// Makes sure that `count` entries can be queued without a submission between them, as links need.
  func reserve(_ count: UInt32) {
    if io_uring_sq_space_left(ring) < count { io_uring_submit(ring) }
  }

  func submit() { io_uring_submit(ring) }

  /// Submits the queued entries, and waits for a completion or until the time is over.
  func wait(nanoseconds: UInt64) {
    // A wait for no time would still sleep, for as long as the kernel's timers may be late.
    if nanoseconds == 0 || io_uring_cq_ready(ring) > 0 {
      io_uring_submit_and_get_events(ring)
      return
    }
    var time = __kernel_timespec(
      tv_sec: Int64(nanoseconds / 1_000_000_000), tv_nsec: Int64(nanoseconds % 1_000_000_000))
    var completion: UnsafeMutablePointer<io_uring_cqe>?
    io_uring_submit_and_wait_timeout(ring, &completion, 1, &time, nil)
  }

  /// The next completion's `user_data`, result and flags; nil if there is none.
  func next() -> (data: UInt64, result: Int32, flags: UInt32)? {
    guard let completion = allocs_peek(ring) else { return nil }
    defer { io_uring_cqe_seen(ring, completion) }
    return (completion.pointee.user_data, completion.pointee.res, completion.pointee.flags)
  }

  // MARK: registration

  /// Registers an open file; returns its number, nil if the kernel has no place for it.
  mutating func register(file descriptor: Int32) -> Int32? {
    guard let slot = freeFiles.popLast() else { return nil }
    var descriptor = descriptor
    if io_uring_register_files_update(ring, UInt32(slot), &descriptor, 1) == 1 { return slot }
    freeFiles.append(slot)
    return nil
  }

  mutating func unregister(file slot: Int32) {
    var none: Int32 = -1
    io_uring_register_files_update(ring, UInt32(slot), &none, 1)
    freeFiles.append(slot)
  }

  /// Registers memory, which the kernel pins; returns its number, nil if the kernel has no place for it or
  /// RLIMIT_MEMLOCK forbids it.
  mutating func register(buffer: UnsafeMutableRawBufferPointer) -> Int32? {
    guard let slot = freeBuffers.popLast() else { return nil }
    var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
    var tag: UInt64 = 0
    if io_uring_register_buffers_update_tag(ring, UInt32(slot), &vector, &tag, 1) == 1 { return slot }
    freeBuffers.append(slot)
    return nil
  }

  mutating func unregister(buffer slot: Int32) {
    var none = iovec()
    var tag: UInt64 = 0
    io_uring_register_buffers_update_tag(ring, UInt32(slot), &none, &tag, 1)
    freeBuffers.append(slot)
  }
}
