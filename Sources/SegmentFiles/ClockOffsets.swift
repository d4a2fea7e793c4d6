// SPDX-License-Identifier: Apache-2.0
// The offsets that time namespaces add to the clocks of the processes in them (time_namespaces(7)).
// A segment counts in the clocks of its process. A reader counts in the clocks of its own
// namespace, and /proc shows a start time in the clock of the reader.

import Glibc
import SharedLayout

/// The nanoseconds that a time namespace adds to CLOCK_MONOTONIC and to the time since boot.
package struct ClockOffsets: Hashable, Sendable {
  package var monotonic: Int64
  package var boottime: Int64

  package static let none = ClockOffsets(monotonic: 0, boottime: 0)

  /// The offsets of this process; `none` where they can't be known.
  package static let own: ClockOffsets = {
    let descriptor = open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return none }
    defer { close(descriptor) }
    let text = [UInt8](unsafeUninitializedCapacity: 256) { buffer, count in
      count = max(0, read(descriptor, buffer.baseAddress, buffer.count))
    }
    guard let offsets = ClockOffsets(text: String(decoding: text, as: UTF8.self)) else { return none }
    // The file tells of the namespace of the children that the process will have.
    return offsets == none || link("/proc/self/ns/time") == link("/proc/self/ns/time_for_children") ? offsets : none
  }()

  package init(monotonic: Int64, boottime: Int64) {
    self.monotonic = monotonic
    self.boottime = boottime
  }

  /// The offsets that the process hands on to its children: the process's own offsets, unless it
  /// has called unshare(2). Nil if they can't be read.
  init?(of directory: borrowing ProcessDirectory) {
    guard let text = try? directory.line("timens_offsets") else { return nil }
    self.init(text: String(decoding: text, as: UTF8.self))
  }

  /// From lines of text that have a clock's name, seconds and nanoseconds; nil if a clock is
  /// missing.
  package init?(text: String) {
    var found: [Substring: Int64] = [:]
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count == 3, let seconds = Int64(words[1]), let nanoseconds = Int64(words[2]) else { return nil }
      let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
      let (sum, carry) = product.addingReportingOverflow(nanoseconds)
      guard !overflow, !carry else { return nil }
      found[words[0]] = sum
    }
    guard let monotonic = found["monotonic"], let boottime = found["boottime"] else { return nil }
    self.init(monotonic: monotonic, boottime: boottime)
  }

  private static func link(_ path: String) -> [UInt8]? {
    var failed = false
    let text = [UInt8](unsafeUninitializedCapacity: 64) { buffer, count in
      let size = buffer.baseAddress.map { readlink(path, $0, buffer.count) } ?? -1
      failed = size < 0
      count = max(0, size)
    }
    return failed ? nil : text
  }

  /// The nanoseconds to add to the reader's CLOCK_MONOTONIC to get the time that a process with
  /// these offsets reads at that moment.
  package var monotonicShift: Int64 { monotonic &- Self.own.monotonic }

  /// Whether a start time in clock ticks since boot, as a process with these offsets sees it, is
  /// the start time that /proc shows to this reader. Where the two clocks differ, each time was
  /// rounded by itself: then the two may differ by a tick.
  package func isSameStart(_ ticks: UInt64, asRead read: UInt64) -> Bool {
    let difference = boottime &- Self.own.boottime
    guard difference != 0 else { return ticks == read }
    // bounded: 64-bit numbers by a tick of 10^9 ns at most, in 128 bits
    let tick = Int128(1_000_000_000 / SystemClock.ticksPerSecond)
    return abs(Int128(ticks) * tick - Int128(difference) - Int128(read) * tick) <= tick
  }
}
