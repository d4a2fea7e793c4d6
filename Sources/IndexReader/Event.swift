// One record of an event ring, decoded. What each kind means stands in allocs_ring.h.

import SharedLayout

/// Something that a thread of the process did. A value of its own: nothing of it is in the segment any more.
public struct Event: Hashable, Sendable {
  public enum Kind: UInt32, Hashable, Sendable, CaseIterable {
    case alloc = 1
    case free
    /// A block goes into realloc: until the thread's next `reallocNew` or `reallocFailed` it is not alive.
    case reallocOld
    case reallocNew
    /// The block of the `reallocOld` before lives on as it was.
    case reallocFailed
    case threadStart
    case threadEnd
    case moduleLoad
    case moduleUnload
    /// Events were off: what the thread did since its last record is not in the ring.
    case resumed
    case map
    case unmap

    /// As in `allocs_event_name`.
    public var name: String { String(cString: allocs_event_name(rawValue)) }
  }

  /// nil for a kind that this build does not know.
  public var kind: Kind?
  public var address: UInt64
  /// In bytes, for blocks, modules and mappings; for threads, the thread's start in ticks.
  public var size: UInt64
  /// What was asked for; nil if nothing was, or the record is not of an allocation.
  public var alignment: UInt64?
  /// Of the thread that made it: with `ticks`, for `Segment.thread(slot:at:)`.
  public var slot: UInt32
  /// Who made it, for `Segment.context(_:)`; 0 if not known or not asked for. Of a module, its index in the table of
  /// modules.
  public var context: UInt32
  /// Of a block that ends: the context that it was allocated in.
  public var origin: UInt32
  /// Nanoseconds of CLOCK_MONOTONIC: not later than the event, and earlier by a few milliseconds at most. Sorted by it,
  /// the events of all rings are a history that can have been.
  public var stamp: UInt64

  public init(_ record: allocs_event) {
    kind = Kind(rawValue: allocs_event_kind_of(record.place))
    address = allocs_event_address(record.place)
    size = allocs_event_size(record.extent)
    let logarithm = allocs_event_alignment(record.place)
    alignment = logarithm == 0 || logarithm > 63 ? nil : 1 << UInt64(logarithm)
    slot = allocs_event_slot(record.extent)
    context = allocs_event_context(record.source)
    origin = allocs_event_origin(record.source)
    stamp = record.stamp
  }

  /// The stamp as the segment keeps time elsewhere.
  public var ticks: UInt32 { allocs_event_ticks(stamp) }
}
