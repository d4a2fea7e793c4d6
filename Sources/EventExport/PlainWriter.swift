// SPDX-License-Identifier: Apache-2.0
// Writes by poll(2), write(2) and send(2), where io_uring is not available. It differs from IOUringWriter in two
// things: each write is a system call, and a write to a file, which poll can't tell to be slow, holds the loop up.

import CLiburing
import Glibc

/// Writes by plain system calls. Not thread-safe: used by the thread that made it.
final class PlainWriter: EventWriter {
  private struct Target {
    var descriptor: Int32
    var kind: Destination.Kind
    var memory: UnsafeMutableRawBufferPointer
    var range: Range<Int>?
    var sync = false
    var isCancelled = false
  }

  private let wakeup: Wakeup
  private var targets: [UInt32: Target] = [:]
  private var watched: [UInt32: pollfd] = [:]

  init(wakeup: Wakeup) { self.wakeup = wakeup }

  func add(_ id: UInt32, _ destination: borrowing Destination, memory: UnsafeMutableRawBufferPointer) {
    targets[id] = Target(descriptor: destination.descriptor, kind: destination.kind, memory: memory)
  }

  func write(_ id: UInt32, _ range: Range<Int>, sync: Bool) {
    targets[id]?.range = range
    targets[id]?.sync = sync
    targets[id]?.isCancelled = false
  }

  func watch(_ id: UInt32, descriptor: Int32, events: Int32) {
    watched[id] = pollfd(fd: descriptor, events: Int16(events), revents: 0)
  }

  func unwatch(_ id: UInt32) { watched[id] = nil }
  func cancel(_ id: UInt32) { targets[id]?.isCancelled = true }
  func remove(_ id: UInt32) { targets[id] = nil }

  func wait(nanoseconds: UInt64, _ reports: inout WriterReports) {
    var polled: [pollfd] = [pollfd(fd: wakeup.descriptor, events: Int16(POLLIN), revents: 0)]
    var ids: [UInt32] = [0]
    for (id, entry) in watched {
      polled.append(entry)
      ids.append(id)
    }
    var isReady = false
    for (id, target) in targets where target.range != nil {
      if target.kind == .file || target.isCancelled {
        isReady = true
      } else {
        polled.append(pollfd(fd: target.descriptor, events: Int16(POLLOUT), revents: 0))
        ids.append(id)
      }
    }
    let milliseconds = isReady ? 0 : Int32(clamping: (nanoseconds + 999_999) / 1_000_000)
    let count = poll(&polled, UInt(polled.count), milliseconds)
    if count > 0 {
      if polled[0].revents != 0 { wakeup.clear() }
      for (index, entry) in polled.enumerated().dropFirst() where entry.revents != 0 {
        let id = ids[index]
        if index <= watched.count {
          reports.gone.append(id)
        } else {
          attempt(id, &reports)
        }
      }
      for id in reports.gone { watched[id] = nil }
    }
    guard isReady else { return }
    for (id, target) in targets where target.range != nil {
      if target.isCancelled {
        end(id, -Int(ECANCELED), &reports)
      } else if target.kind == .file {
        attempt(id, &reports)
      }
    }
  }

  private func attempt(_ id: UInt32, _ reports: inout WriterReports) {
    guard let target = targets[id], let range = target.range, let memory = target.memory.baseAddress else { return }
    let start = memory + range.lowerBound
    let result =
      switch target.kind {
      case .socket:
        send(target.descriptor, start, range.count, allocs_no_signal | allocs_dont_wait)
      case .file: Glibc.write(target.descriptor, start, range.count)
      // A pipe that can be written to takes PIPE_BUF bytes without making its writer wait.
      case .pipe, .other: Glibc.write(target.descriptor, start, min(range.count, Int(PIPE_BUF)))
      }
    let code = errno
    if result < 0 {
      end(id, code == EINTR || code == EAGAIN ? 0 : -Int(code), &reports)
    } else if target.sync, fdatasync(target.descriptor) != 0, errno != EINVAL {
      end(id, -Int(errno), &reports)
    } else {
      end(id, result, &reports)
    }
  }

  private func end(_ id: UInt32, _ result: Int, _ reports: inout WriterReports) {
    targets[id]?.range = nil
    reports.ended.append((id, result))
  }
}
