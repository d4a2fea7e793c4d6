// What a look-up answers with.

/// A live allocation, as its slot said at one moment.
public struct Allocation: Hashable, Sendable {
  /// The address that the allocator returned.
  public var base: UInt64
  /// Bytes asked for, exactly as the caller asked.
  public var size: UInt64
  /// Bytes, a power of two; nil if the call asked for none or the allocation is below 64 bytes.
  public var alignment: UInt64?
  /// For `Segment.context(_:)`; 0 if not known.
  public var context: UInt32
  /// When it was made, modulo 2^31: for `Segment.age(ofTicks:)` and `SegmentClock`.
  public var ticks: UInt32

  public init(base: UInt64, size: UInt64, alignment: UInt64? = nil, context: UInt32, ticks: UInt32) {
    self.base = base
    self.size = size
    self.alignment = alignment
    self.context = context
    self.ticks = ticks
  }

  /// One past the last address that belongs to it; an allocation of zero bytes still owns its base.
  public var end: UInt64 {
    let (end, overflow) = base.addingReportingOverflow(max(size, 1))
    return overflow ? .max : end
  }

  /// Whether `address` is in it: base <= address < base + max(size, 1).
  public func contains(_ address: UInt64) -> Bool { address >= base && address - base < max(size, 1) }
}

/// An address with what is at it and beside it. Each of the three was true at a moment of the look-up, not all of them
/// at the same one.
public struct Lookup: Hashable, Sendable {
  public var address: UInt64
  /// The allocation that the address is in.
  public var containing: Allocation?
  /// The nearest live allocation below: of `containing` if there is one, else of the address.
  public var previous: Allocation?
  /// The nearest live allocation above.
  public var next: Allocation?

  public init(address: UInt64, containing: Allocation?, previous: Allocation?, next: Allocation?) {
    self.address = address
    self.containing = containing
    self.previous = previous
    self.next = next
  }
}

/// Sums over the live allocations.
public struct AllocationTotals: Hashable, Sendable {
  public var count: UInt64 = 0
  /// Bytes asked for.
  public var bytes: UInt64 = 0

  public init() {}
}
