// SPDX-License-Identifier: Apache-2.0
// The mappings of a process, parsed again only if the kernel's text has changed: parsing takes several times as long as
// reading.

import Bounds
import Synchronization

/// The text that the last request read, with its mappings. Thread-safe.
final class LatestMaps: Sendable {
  private struct Reading {
    var text: [UInt8]
    var maps: ProcessMaps
  }

  /// Bytes of the longest text that is kept: some ten thousand mappings.
  private static let limit = 1 << 20

  private let reading = Mutex<Reading?>(nil)
  private let lastSize = Atomic<Int>(0)
  private let start = Atomic<UInt64>(0)
  private let answers = Atomic<Bool>(false)

  /// Where the process had its segment mapped when all mappings were read last; nil if that is not known. It is where
  /// to ask, and proves nothing.
  var segmentStart: UInt64? {
    get {
      let known = start.load(ordering: .relaxed)
      return known == 0 ? nil : known
    }
    set { start.store(newValue ?? 0, ordering: .relaxed) }
  }

  /// Whether the kernel has answered questions about single mappings of the process.
  var areAsked: Bool {
    get { answers.load(ordering: .relaxed) }
    set { answers.store(newValue, ordering: .relaxed) }
  }

  /// Bytes of the last text.
  var size: Int { lastSize.load(ordering: .relaxed) }

  /// The mappings in `text`, just read from /proc/PID/maps.
  func parse(_ text: [UInt8]) -> ProcessMaps {
    lastSize.store(text.count, ordering: .relaxed)
    if let known = reading.withLock({ $0 }), known.text == text { return known.maps }
    let maps = ProcessMaps(text: text)
    // Mappings that were not read to the end are for this question alone, which ends.
    if text.count <= Self.limit, Budget.current?.isExhausted != true {
      reading.withLock { $0 = Reading(text: text, maps: maps) }
    }
    return maps
  }
}
