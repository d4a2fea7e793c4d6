// SPDX-License-Identifier: Apache-2.0
// A record of an event ring, decoded. The list of kinds, and the fields that a record of each kind
// has, stand in allocs_ring.h.

import SharedLayout

/// A record of an event ring: something that a thread of the process did.
///
/// An event is a value of its own: nothing of it is in the segment any more, so it may be kept and
/// passed between threads.
public struct Event: Hashable, Sendable {
  /// The kinds of events. The raw value is the kind's number in the format.
  public enum Kind: UInt32, Hashable, Sendable, CaseIterable {
    /// A block was allocated.
    case alloc = 1
    /// A block was freed.
    case free
    /// A block goes into realloc: until the thread's next `reallocNew` or `reallocFailed` it is not
    /// alive.
    case reallocOld
    /// A block came out of realloc.
    case reallocNew
    /// realloc failed: the block of the `reallocOld` before lives on as it was.
    case reallocFailed
    /// A thread began to record.
    case threadStart
    /// A thread ended. Late destructors of the thread may still make events.
    case threadEnd
    /// A module was noted in the table of modules.
    case moduleLoad
    /// A module was unloaded.
    case moduleUnload
    /// Events were off: what the thread did since its last record is not in the ring.
    case resumed
    /// Memory was mapped.
    case map
    /// Memory was unmapped.
    case unmap

    /// The subjects of events (enum allocs_event_subject).
    public enum Subject: UInt32, Hashable, Sendable {
      /// A block that lives from here on. Its context says who allocated it.
      case liveBlock = 1
      /// A block that ends. Its origin is the context that had allocated it.
      case endedBlock
      /// A thread.
      case thread
      /// A module.
      case module
      /// Mapped memory.
      case mapping
    }

    /// The subject of the kind's records.
    public var subject: Subject { Subject(rawValue: allocs_event_subject_of(rawValue)) ?? .thread }
    /// Whether records of the kind have an address of the program's memory and a size in bytes.
    public var isAboutMemory: Bool {
      switch subject {
      case .liveBlock, .endedBlock, .mapping: true
      case .thread, .module: false
      }
    }
    /// The name in JSON, such as `realloc_old`.
    public var name: String { String(cString: allocs_event_facts(rawValue).name) }
    /// The word in lines of text, such as `re-from`.
    public var word: String { String(cString: allocs_event_facts(rawValue).word) }
    /// The word by which a filter selects kinds, such as `realloc`: several kinds share one.
    public var filterWord: String { String(cString: allocs_event_facts(rawValue).filter) }
  }

  /// nil for a kind that this build does not know.
  public var kind: Kind?
  /// Of a block, a module or a mapping; of a thread event, the thread's id.
  public var address: UInt64
  /// In bytes, for blocks, modules and mappings; for threads, the thread's start in ticks.
  public var size: UInt64
  /// The alignment that the call asked for, in bytes, a power of two; nil if it asked for none, or
  /// the record is not of an allocation.
  public var alignment: UInt64?
  /// The slot of the thread that made it: with `ticks`, for `Segment.thread(slot:at:)`.
  public var slot: UInt32
  /// Who made it, for `Segment.context(_:)`; 0 if not known or not asked for. Of a module, its
  /// index in the table of modules.
  public var context: UInt32
  /// Of a block that ends: the context that it was allocated in; 0 if that is not known.
  public var origin: UInt32
  /// Nanoseconds of CLOCK_MONOTONIC: not later than the event, and earlier by a few milliseconds at
  /// most. Sorted by it, the events of all rings are a history that can have been.
  public var stamp: UInt64

  /// Decodes a record. Foreign numbers never trap: a kind that this build does not know is nil, an
  /// alignment of more than 63 bits is none.
  public init(_ record: allocs_event) {
    kind = Kind(rawValue: allocs_event_kind_of(record.place))
    address = allocs_event_address(record.place)
    size = allocs_event_size(record.extent)
    let logarithm = allocs_event_alignment(record.place)
    alignment = logarithm == 0 || logarithm > 63 ? nil : 1 << UInt64(truncatingIfNeeded: logarithm)
    slot = allocs_event_slot(record.extent)
    context = allocs_event_context(record.source)
    origin = allocs_event_origin(record.source)
    stamp = record.stamp
  }

  /// The stamp in ticks (1/64 s, modulo 2^31), as the segment keeps time elsewhere.
  public var ticks: UInt32 { allocs_event_ticks(stamp) }
}
