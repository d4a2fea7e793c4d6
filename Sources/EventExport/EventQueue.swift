// SPDX-License-Identifier: Apache-2.0
// Events for another thread of this process, which names them and writes them out at its own pace, so that the loop
// does not have to wait for either. Events for which the thread is too slow are lost, and counted.

import Glibc
import IndexReader
import SharedLayout
import Synchronization

/// Conditions on records that a record itself can answer.
public struct RecordFilter: Sendable, Equatable {
  /// Sizes in bytes of blocks and mappings; nil: all.
  public var sizes: ClosedRange<UInt64>?
  /// Addresses, of which at least one must be the record's address or in its bytes; nil: all.
  public var addresses: Range<UInt64>?
  /// Kinds of events, by their numbers in `allocs_event_kind`; nil: all.
  public var kinds: Set<UInt32>?

  public init(sizes: ClosedRange<UInt64>? = nil, addresses: Range<UInt64>? = nil, kinds: Set<UInt32>? = nil) {
    self.sizes = sizes
    self.addresses = addresses
    self.kinds = kinds
  }

  /// Whether a record meets all conditions.
  public func wants(_ record: EventRecord) -> Bool {
    let kind = allocs_event_kind_of(record.place)
    if let kinds, !kinds.contains(kind) { return false }
    let size = allocs_event_size(record.extent)
    // The sizes of threads and modules are not sizes of memory that the program asked for.
    guard sizes == nil && addresses == nil || Event.Kind(rawValue: kind)?.isAboutMemory == true else { return false }
    if let sizes, !sizes.contains(size) { return false }
    guard let addresses else { return true }
    let address = allocs_event_address(record.place)
    // bounded: an event's address and size have 48 bits each
    return address < addresses.upperBound && address + max(size, 1) > addresses.lowerBound
  }
}

/// Keeps records until another thread takes them. Thread-safe.
public final class EventQueue: EventSubscriber {
  /// One entry of the queue: a record, or something to tell at this point among the records.
  public enum Entry: Sendable {
    /// A record with the number of its ring, and its position there.
    case record(EventRecord, ring: Int, position: UInt64)
    case loss(EventLoss)
    /// Nothing more is read from this ring.
    case damaged(ring: Int)
  }

  private struct State {
    var entries: [Entry] = []
    var hasBegun = false
    var end: DeliveryEnd?
  }

  private let filter: RecordFilter
  private let policy: DeliveryPolicy
  private let capacity: Int
  private let figures: ExportFigures
  private let state = Mutex(State())
  private let onNews: @Sendable () -> Void

  /// - Parameters:
  ///   - policy: The policy of the request. With `overwrite`, a full queue drops records; only records that the filter
  ///     wants count as lost.
  ///   - capacity: Records that the queue keeps at most, 56 bytes each.
  ///   - onNews: Called on the export's thread when the queue has begun, and when an empty queue has got an entry or an
  ///     end. Must not wait.
  public init(
    filter: RecordFilter, policy: DeliveryPolicy, capacity: Int = 1 << 14, figures: ExportFigures,
    onNews: @escaping @Sendable () -> Void
  ) {
    self.filter = filter
    self.policy = policy
    self.capacity = max(1, capacity)
    self.figures = figures
    self.onNews = onNews
  }

  /// Takes all entries out. With an `end`, no more entries come.
  public func take() -> (entries: [Entry], end: DeliveryEnd?) {
    state.withLock { state in
      defer { state.entries = [] }
      return (state.entries, state.end)
    }
  }

  private func change(_ body: (inout State) -> Void) {
    let isNews = state.withLock { state in
      let wasEmpty = state.entries.isEmpty && state.end == nil
      body(&state)
      return wasEmpty && !(state.entries.isEmpty && state.end == nil)
    }
    if isNews { onNews() }
  }

  /// Whether the source was opened. If it can't be opened, the queue gets an end.
  public var hasBegun: Bool { state.withLock { $0.hasBegun } }

  public func begin(_ output: inout EventOutput) {
    state.withLock { $0.hasBegun = true }
    onNews()
  }

  public func take(_ records: Span<EventRecord>, ring: Int, first: UInt64, _ output: inout EventOutput) -> Int {
    var taken = 0
    var dropped: UInt64 = 0
    change { state in
      for index in records.indices {
        let record = records[index]
        if filter.wants(record) {
          if state.entries.count < capacity {
            state.entries.append(.record(record, ring: ring, position: first &+ UInt64(truncatingIfNeeded: index)))
          } else if policy == .lossless {
            return
          } else {
            Self.add(EventLoss(count: 1, from: record.stamp, to: record.stamp), to: &state)
            dropped &+= 1
          }
        }
        taken = index &+ 1
      }
    }
    figures.eventsDropped.wrappingAdd(dropped, ordering: .relaxed)
    return taken
  }

  public func lost(_ loss: EventLoss, _ output: inout EventOutput) -> Bool {
    change { Self.add(loss, to: &$0) }
    return true
  }

  private static func add(_ loss: EventLoss, to state: inout State) {
    if case .loss(var last)? = state.entries.last {
      last.merge(loss)
      state.entries[state.entries.count - 1] = .loss(last)
    } else {
      state.entries.append(.loss(loss))
    }
  }

  public func damaged(ring: Int, _ output: inout EventOutput) { change { $0.entries.append(.damaged(ring: ring)) } }

  public func ended(_ end: DeliveryEnd) { change { $0.end = end } }
}
