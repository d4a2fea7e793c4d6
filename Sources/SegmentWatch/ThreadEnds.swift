// SPDX-License-Identifier: Apache-2.0
// The ends of processes as the kernel tells them to root (the process connector, netlink(7)): for processes that were
// gone before they could be opened (Endings.swift). Nothing waits for these messages. They are taken when a
// process is found dead whose ending is not known, and otherwise at each look at the directories. Where the kernel
// doesn't tell, as in namespaces, no message comes.

import CProcessEnds
import Glibc
import SegmentFiles
import SystemAccess

/// Owns the descriptor, and keeps the ends of the last minute. One task uses it.
final class ThreadEnds {
  private struct End {
    var isFirstThread: Bool
    var waitStatus: Int32
    /// Seconds since 1970-01-01 UTC.
    var time: Double
  }

  private let descriptor: Int32
  private var ends: [Int32: [End]] = [:]
  private var count = 0
  private var lastCleared = 0.0

  private static let keptSeconds = 60.0
  private static let keptEnds = 50_000
  /// More than the kernel keeps for a reader: nobody can keep one busy by ending threads.
  private static let endsAtATime = 8192

  /// Fails where the caller may not know of other processes' ends.
  init?() {
    descriptor = allocs_open_thread_ends()
    guard descriptor >= 0 else { return nil }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Takes the messages that have come.
  func take() {
    let now = (wall: seconds(of: CLOCK_REALTIME), monotonic: Self.machineMonotonic())
    if count > Self.keptEnds { (ends, count) = ([:], 0) }
    if now.monotonic - lastCleared >= 10 {
      lastCleared = now.monotonic
      let oldest = now.wall - Self.keptSeconds  // bounded: seconds in floating point
      ends = ends.filter { $0.value.contains { $0.time > oldest } }
      count = ends.reduce(0) { $0 &+ $1.value.count }
    }
    var end = allocs_thread_end()
    for _ in 0..<Self.endsAtATime {
      let result = allocs_next_thread_end(descriptor, &end)
      // The kernel dropped some messages for want of room: the ends of those processes stay unknown.
      if result == -ENOBUFS { continue }
      guard result > 0 else { return }
      let time = now.wall - now.monotonic + Double(end.nanoseconds) / 1e9  // bounded: seconds in floating point
      ends[end.process, default: []].append(
        End(isFirstThread: end.thread == end.process, waitStatus: end.wait_status, time: time))
      count &+= 1
    }
  }

  /// How the process of `file`, which is dead, has ended; nil if that can't be said for certain.
  func ending(of file: SegmentFile) -> ProcessEnding? {
    take()
    // A clock that was set meanwhile is off by more than this slack; then no end fits, but never the end of another
    // process.
    let slack = 0.01
    let later = (ends[file.processID] ?? []).filter { $0.time >= file.modified - slack }
    // The id may have gone to another process since; that process has a first thread of its own.
    guard let first = later.firstIndex(where: \.isFirstThread) else { return nil }
    let next = later[first...].dropFirst().firstIndex(where: \.isFirstThread) ?? later.endIndex
    // Where the first thread has ended by itself before the others, its status is not the status of the process.
    let statuses = Set(later[..<next][first...].map(\.waitStatus))
    return statuses.count == 1 ? ProcessEnding(waitStatus: later[first].waitStatus) : nil
  }

  /// Seconds of the machine's own monotonic clock, in which the kernel's stamps count, whatever time namespace this
  /// process is in.
  private static func machineMonotonic() -> Double {
    seconds(of: CLOCK_MONOTONIC) - Double(ClockOffsets.own.monotonic) / 1e9
  }
}
