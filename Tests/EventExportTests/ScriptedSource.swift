// SPDX-License-Identifier: Apache-2.0
// A source of events that a test writes, in place of a process.

import EventExport
import Glibc
import SharedLayout
import Synchronization
import SystemAccess

/// The records that a scripted source gives, and how often it was asked. Thread-safe.
final class Script: Sendable {
  struct State {
    /// Records of each ring that were not taken yet; positions count from 0.
    var rings: [[EventRecord]] = []
    var positions: [UInt64] = []
    var losses: [(ring: Int, loss: EventLoss)] = []
    var damaged: [Int] = []
    var isLive = true
    var failure: Complaint?
    /// Of every look, so many more records appear in each ring.
    var endless = 0
    var looks = 0
    var isOpen = false
  }
  let state = Mutex(State())

  init(rings: Int = 1) {
    state.withLock {
      $0.rings = Array(repeating: [], count: rings)
      $0.positions = Array(repeating: 0, count: rings)
    }
  }

  /// Adds `count` records to a ring: addresses count up from `address`, all of 16 bytes.
  func add(_ count: Int, ring: Int = 0, address: UInt64 = 0x1000) {
    state.withLock { state in
      for index in 0..<count {
        state.rings[ring].append(Self.record(address: address + UInt64(index) * 16, stamp: UInt64(index + 1)))
      }
    }
  }

  func end() { state.withLock { $0.isLive = false } }

  static func record(address: UInt64, size: UInt64 = 16, stamp: UInt64) -> EventRecord {
    EventRecord(
      place: allocs_event_place(ALLOCS_EVENT_ALLOC.rawValue, address, 0), extent: allocs_event_extent(size, 0),
      source: 0, stamp: stamp)
  }
}

final class ScriptedSource: EventSource {
  private let script: Script
  let processID: Int32

  init(_ script: Script) {
    self.script = script
    processID = getpid()
    script.state.withLock { $0.isOpen = true }
  }

  deinit { script.state.withLock { $0.isOpen = false } }

  var isLive: Bool { script.state.withLock { $0.isLive } }

  func read(limit: Int, share: Int, now: UInt64, into receiver: inout some EventReceiver) throws(Complaint)
    -> SourceStatus
  {
    let (state, failure) = script.state.withLock { state in
      state.looks += 1
      for ring in state.rings.indices where state.endless > 0 {
        for index in 0..<state.endless where state.rings[ring].count < limit {
          state.rings[ring].append(Script.record(address: 0x1000, stamp: UInt64(index)))
        }
      }
      let copy = state
      state.losses = []
      state.damaged = []
      return (copy, state.failure)
    }
    if let failure { throw failure }
    var status = SourceStatus()
    for (ring, loss) in state.losses { receiver.lost(loss, ring: ring) }
    for ring in state.damaged { receiver.damaged(ring: ring) }
    for ring in state.rings.indices where !state.rings[ring].isEmpty {
      let records = Array(state.rings[ring].prefix(limit))
      let done = receiver.receive(records.span, ring: ring, first: state.positions[ring])
      script.state.withLock {
        $0.rings[ring].removeFirst(done)
        $0.positions[ring] += UInt64(done)
      }
      status.records += done
      status.waiting += records.count - done
    }
    status.fullest = state.endless > 0 ? 1 : 0
    return status
  }
}
