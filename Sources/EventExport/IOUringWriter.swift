// SPDX-License-Identifier: Apache-2.0
// Writes by io_uring: all writes that a turn of the loop starts, and its wait, are one system call. A destination that
// blocks, be it a disk or a terminal, does not hold the loop up.
//
// - Pipes and sockets that are full are polled by the kernel; sockets get `send`, which makes no SIGPIPE.
// - A write and the fdatasync behind it are linked: the second begins when the first has written everything.
// - The wake-up and the other ends of idle destinations are polled; for the wake-up, one request is polled again and
//   again (multishot).

import CLiburing
import Glibc
import SystemAccess

/// Writes by an io_uring. Not thread-safe: used by the thread that made it.
final class IOUringWriter: EventWriter {
  private struct Target {
    var descriptor: Int32
    var isSocket: Bool
    var memory: UnsafeMutableRawBufferPointer
    var file: Int32?
    var buffer: Int32?
    var isWriting = false
    /// The bytes that the write has written, while the sync that is linked to it is not done.
    var written: Int?
    /// The write's descriptor is non-blocking and was full: it is polled before the next attempt.
    var isPolling = false
  }

  private enum Operation: UInt64 {
    case write = 1
    case sync, writable, gone, wake, cancel
  }

  private var ring: IORing
  private let wakeup: Wakeup
  private var targets: [UInt32: Target] = [:]
  private var watched: Set<UInt32> = []
  /// Writes for which there was no place in the submission queue; they are tried again.
  private var postponed: [UInt32] = []

  init(wakeup: Wakeup) throws(Complaint) {
    ring = try IORing(entries: 256)
    self.wakeup = wakeup
    watchWakeup()
  }

  private static func data(_ operation: Operation, _ id: UInt32) -> UInt64 { operation.rawValue << 32 | UInt64(id) }

  private func watchWakeup() {
    guard let entry = ring.entry() else { return }
    io_uring_prep_poll_multishot(entry, wakeup.descriptor, UInt32(POLLIN))
    entry.pointee.user_data = Self.data(.wake, 0)
  }

  func add(_ id: UInt32, _ destination: borrowing Destination, memory: UnsafeMutableRawBufferPointer) {
    let isSocket = destination.kind == .socket
    targets[id] = Target(
      descriptor: destination.descriptor, isSocket: isSocket, memory: memory,
      file: ring.register(file: destination.descriptor),
      // Writes use registered memory. For sockets, sending it without a copy was no gain (docs/events.md).
      buffer: isSocket ? nil : ring.register(buffer: memory))
  }

  func write(_ id: UInt32, _ range: Range<Int>, sync: Bool) {
    guard var target = targets[id], let start = target.memory.baseAddress else { return }
    ring.reserve(2)
    guard let entry = ring.entry() else {
      postponed.append(id)
      return
    }
    let descriptor = target.file ?? target.descriptor
    let length = UInt32(range.count)
    // The write is made at the file's own position, as by write(2): other holders of the open file see it move.
    let position = UInt64.max
    if target.isSocket {
      io_uring_prep_send(entry, descriptor, start + range.lowerBound, range.count, allocs_no_signal)
    } else if let buffer = target.buffer {
      io_uring_prep_write_fixed(entry, descriptor, start + range.lowerBound, length, position, buffer)
    } else {
      io_uring_prep_write(entry, descriptor, start + range.lowerBound, length, position)
    }
    let fixed = target.file == nil ? 0 : UInt32(allocs_sqe_fixed_file)
    io_uring_sqe_set_flags(entry, fixed | (sync ? UInt32(allocs_sqe_link) : 0))
    entry.pointee.user_data = Self.data(.write, id)
    if sync, let entry = ring.entry() {
      io_uring_prep_fsync(entry, descriptor, UInt32(IORING_FSYNC_DATASYNC))
      io_uring_sqe_set_flags(entry, fixed)
      entry.pointee.user_data = Self.data(.sync, id)
      target.written = 0
    } else {
      target.written = nil
    }
    target.isWriting = true
    targets[id] = target
  }

  func watch(_ id: UInt32, descriptor: Int32, events: Int32) {
    guard watched.insert(id).inserted else { return }
    poll(id, descriptor, isRegistered: false, events, .gone)
  }

  func unwatch(_ id: UInt32) {
    guard watched.remove(id) != nil else { return }
    // A poll keeps the file open: unless the poll is ended, the other side would not see this one close.
    cancel(Self.data(.gone, id))
    ring.submit()
  }

  private func poll(_ id: UInt32, _ descriptor: Int32, isRegistered: Bool, _ events: Int32, _ operation: Operation) {
    guard let entry = ring.entry() else { return }
    io_uring_prep_poll_add(entry, descriptor, UInt32(bitPattern: events))
    if isRegistered { io_uring_sqe_set_flags(entry, UInt32(allocs_sqe_fixed_file)) }
    entry.pointee.user_data = Self.data(operation, id)
  }

  func cancel(_ id: UInt32) {
    guard let target = targets[id], target.isWriting else { return }
    cancel(Self.data(target.isPolling ? .writable : .write, id))
  }

  private func cancel(_ data: UInt64) {
    guard let entry = ring.entry() else { return }
    io_uring_prep_cancel64(entry, data, 0)
    entry.pointee.user_data = Self.data(.cancel, 0)
  }

  func remove(_ id: UInt32) {
    guard let target = targets.removeValue(forKey: id) else { return }
    if let file = target.file { ring.unregister(file: file) }
    if let buffer = target.buffer { ring.unregister(buffer: buffer) }
  }

  func wait(nanoseconds: UInt64, _ reports: inout WriterReports) {
    ring.wait(nanoseconds: postponed.isEmpty ? nanoseconds : 0)
    for id in postponed { reports.ended.append((id, 0)) }
    postponed.removeAll()
    while let completion = ring.next() {
      let id = UInt32(truncatingIfNeeded: completion.data)
      switch Operation(rawValue: completion.data >> 32) {
      case .write: wrote(id, completion.result, &reports)
      case .sync: synced(id, completion.result, &reports)
      case .writable:
        targets[id]?.isPolling = false
        end(id, completion.result == -ECANCELED ? -Int(ECANCELED) : 0, &reports)
      case .gone:
        if watched.remove(id) != nil { reports.gone.append(id) }
      case .wake:
        wakeup.clear()
        // The kernel may end a multishot request, as it does when the queue of completions was full.
        if completion.flags & allocs_cqe_more == 0 { watchWakeup() }
      case .cancel, nil: break
      }
    }
  }

  private func wrote(_ id: UInt32, _ result: Int32, _ reports: inout WriterReports) {
    guard let target = targets[id] else { return }
    if result == -EAGAIN, target.written == nil {
      poll(id, target.file ?? target.descriptor, isRegistered: target.file != nil, Int32(POLLOUT), .writable)
      targets[id]?.isPolling = true
      return
    }
    // The sync that is linked to the write ends after it; if the write was short, it is cancelled.
    if target.written != nil { targets[id]?.written = Int(result) } else { end(id, Int(result), &reports) }
  }

  private func synced(_ id: UInt32, _ result: Int32, _ reports: inout WriterReports) {
    guard let written = targets[id]?.written else { return }
    // EINVAL: the file system has no device to sync to. The write is done all the same.
    let failed = result < 0 && result != -ECANCELED && result != -EINVAL && written >= 0
    end(id, failed ? Int(result) : written == -Int(EAGAIN) ? 0 : written, &reports)
  }

  private func end(_ id: UInt32, _ result: Int, _ reports: inout WriterReports) {
    targets[id]?.isWriting = false
    targets[id]?.written = nil
    reports.ended.append((id, result == -Int(EINTR) || result == -Int(EAGAIN) ? 0 : result))
  }
}
