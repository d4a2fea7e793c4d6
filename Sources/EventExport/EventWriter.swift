// SPDX-License-Identifier: Apache-2.0
// How waiting bytes reach their destinations: the interface of the two ways, io_uring and plain system calls.
//
// A destination has at most one write in progress, so that a stream stays in order; the bytes of that write neither
// move nor change until its end is reported. A writer is used on the drain loop's thread; `Wakeup` alone is used by
// other threads as well.

import CLiburing
import Glibc
import SystemAccess

/// The events of one wait.
struct WriterReports {
  /// Writes that ended, each with the bytes written (0: try again), or a negative `errno` value.
  var ended: [(id: UInt32, result: Int)] = []
  /// Watched descriptors that are gone: destinations whose other end was closed, processes that ended.
  var gone: [UInt32] = []

  mutating func removeAll() {
    ended.removeAll(keepingCapacity: true)
    gone.removeAll(keepingCapacity: true)
  }
}

/// Writes to many destinations for one thread.
protocol EventWriter: AnyObject {
  /// Makes a destination known. Its waiting bytes lie in `memory`, which must be valid until `remove`.
  func add(_ id: UInt32, _ destination: borrowing Destination, memory: UnsafeMutableRawBufferPointer)

  /// Starts to write `range` of the destination's memory. With `sync`, the file is then synced to its device.
  func write(_ id: UInt32, _ range: Range<Int>, sync: Bool)

  /// Reports `id` as gone, once, when one of the poll(2) `events` is true of the descriptor, or it is hung up or in
  /// error.
  func watch(_ id: UInt32, descriptor: Int32, events: Int32)

  /// Ends the watching of `id`. The descriptor may be closed afterwards.
  func unwatch(_ id: UInt32)

  /// Ends a write in progress soon; its end is reported all the same.
  func cancel(_ id: UInt32)

  /// Forgets a destination without a write in progress. Its descriptor may be closed afterwards.
  func remove(_ id: UInt32)

  /// Waits until a write ends, a watched descriptor is gone, the wake-up is rung, or the time is over. Adds what
  /// happened to `reports`.
  func wait(nanoseconds: UInt64, _ reports: inout WriterReports)
}

/// An eventfd that ends a wait. Any thread may ring it.
final class Wakeup: Sendable {
  let descriptor: Int32

  init() throws(Complaint) {
    descriptor = allocs_eventfd()
    guard descriptor >= 0 else {
      throw Complaint(
        .obstacle, what: "cannot create an eventfd: \(systemWords(errno))",
        advice: "raise the limit of open files (ulimit -n)", code: errno)
    }
  }

  deinit { close(descriptor) }

  /// Ends the present wait, or the next one.
  func ring() {
    var value: UInt64 = 1
    _ = write(descriptor, &value, 8)
  }

  /// Makes later waits wait again.
  func clear() {
    var value: UInt64 = 0
    _ = read(descriptor, &value, 8)
  }
}
