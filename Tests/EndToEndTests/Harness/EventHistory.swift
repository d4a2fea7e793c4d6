// SPDX-License-Identifier: Apache-2.0
// Events of all threads in the order of their stamps, and whether that is a history that can have been.

import Foundation
import IndexReader
import SharedLayout

/// Everything that the rings of a segment hold now, and what they lost.
struct RingContents {
  var events: [Event] = []
  var lost: UInt64 = 0
  var written: UInt64 = 0
  var faults: [String] = []

  init() {}

  init(of segment: borrowing Segment) {
    var cursors: [RingCursor] = []
    read(segment, &cursors)
    for cursor in cursors { lost += cursor.lost }
  }

  /// Reads what is there and was not read before.
  mutating func read(_ segment: borrowing Segment, _ cursors: inout [RingCursor]) {
    while cursors.count < segment.ringCount { cursors.append(RingCursor(ring: cursors.count)) }
    withUnsafeTemporaryAllocation(of: allocs_event.self, capacity: 1 << 14) { buffer in
      for ring in cursors.indices {
        while true {
          let before = cursors[ring]
          let batch = segment.read(&cursors[ring], into: buffer)
          check(batch, before, cursors[ring])
          if batch.records.isEmpty && cursors[ring].position == before.position { break }
          written += UInt64(batch.records.count) + batch.lost
          var last = before.lastStamp
          for index in batch.records {
            let event = Event(buffer[index])
            if event.stamp <= last { faults.append("ring \(ring): stamp \(event.stamp) after \(last)") }
            if event.kind == nil { faults.append("ring \(ring): kind \(buffer[index].place >> 48)") }
            if event.slot != segment.slot(ofRing: ring) {
              faults.append("ring \(ring): a record of slot \(event.slot)")
            }
            last = event.stamp
            events.append(event)
          }
        }
      }
    }
  }

  private mutating func check(_ batch: RingBatch, _ before: RingCursor, _ after: RingCursor) {
    if after.isDamaged { faults.append("ring \(before.ring) is damaged") }
    if after.position &- before.position != UInt64(batch.records.count) + batch.lost {
      faults.append("ring \(before.ring): \(before.position) to \(after.position) is not what was read and lost")
    }
  }
}

/// Replays events by stamp.
struct EventHistory {
  struct Life {
    var size: UInt64
    var context: UInt32
    var slot: UInt32
  }
  private(set) var live: [UInt64: Life] = [:]
  private(set) var faults: [String] = []
  private(set) var counts: [Event.Kind: Int] = [:]
  /// Frees of blocks whose allocation is not among the events.
  private(set) var unknownFrees = 0
  // By page: the starts of the blocks that lie in it.
  private var pages: [UInt64: [UInt64]] = [:]

  /// `isWhole`: the events begin with the process, so that each free has its allocation.
  init(_ events: [Event], isWhole: Bool = true) {
    let order = events.indices.sorted { (events[$0].stamp, $0) < (events[$1].stamp, $1) }
    for index in order {
      let event = events[index]
      guard let kind = event.kind else { continue }
      counts[kind, default: 0] += 1
      switch kind {
      case .alloc, .reallocNew, .reallocFailed: begin(event)
      case .free, .reallocOld: end(event, isWhole)
      default: break
      }
    }
  }

  private mutating func fault(_ event: Event, _ what: String) {
    if faults.count < 20 {
      let name = event.kind?.name ?? "?"
      faults.append(
        "\(name) of \(String(event.address, radix: 16))+\(event.size) by \(event.slot) at \(event.stamp): \(what)")
    }
  }

  private static func pages(_ base: UInt64, _ size: UInt64) -> ClosedRange<UInt64> {
    base >> 14...(base + max(size, 1) - 1) >> 14
  }

  private mutating func begin(_ event: Event) {
    let end = event.address + max(event.size, 1)
    for page in Self.pages(event.address, event.size) {
      for other in pages[page] ?? [] {
        guard let life = live[other] else { continue }
        if other < end, event.address < other + max(life.size, 1) {
          fault(event, "\(String(other, radix: 16))+\(life.size) of \(life.slot) is alive there")
        }
      }
      pages[page, default: []].append(event.address)
    }
    live[event.address] = Life(size: event.size, context: event.context, slot: event.slot)
  }

  private mutating func end(_ event: Event, _ isWhole: Bool) {
    guard let life = live.removeValue(forKey: event.address) else {
      unknownFrees += 1
      if isWhole { fault(event, "no block is alive there") }
      return
    }
    if life.size != event.size { fault(event, "it has size \(life.size)") }
    if life.context != event.origin { fault(event, "it is from \(life.context), not \(event.origin)") }
    for page in Self.pages(event.address, life.size) {
      if let index = pages[page]?.lastIndex(of: event.address) { pages[page]?.remove(at: index) }
    }
  }

  /// How what lives at the end differs from an index.
  func differences(from allocations: [Allocation]) -> [String] {
    var left = live
    var differences: [String] = []
    for allocation in allocations {
      guard let life = left.removeValue(forKey: allocation.base) else {
        differences.append("\(String(allocation.base, radix: 16)) is in the index only")
        continue
      }
      if life.size != allocation.size || life.context != allocation.context {
        differences.append("\(String(allocation.base, radix: 16)) is another: \(life), \(allocation)")
      }
    }
    for base in left.keys { differences.append("\(String(base, radix: 16)) is in the events only") }
    return Array(differences.prefix(20))
  }
}
