// SPDX-License-Identifier: Apache-2.0
// The values that a look-up answers with.

/// A live allocation, as its slot said at one moment.
public struct Allocation: Hashable, Sendable {
  /// The address that the allocator returned.
  public var base: UInt64
  /// Bytes, exactly as many as the caller asked for. Below 2^47.
  public var size: UInt64
  /// Alignment in bytes, a power of two; nil if the call asked for none, or the allocation is
  /// smaller than 64 bytes.
  public var alignment: UInt64?
  /// The id of the context that says who allocated, for `Segment.context(_:)`; 0 if it is not
  /// known.
  public var context: UInt32
  /// When it was made, in ticks of 1/64 s modulo 2^31: for `Segment.age(ofTicks:)` and
  /// `SegmentClock`.
  public var ticks: UInt32

  /// An allocation of these properties. No value is refused.
  public init(base: UInt64, size: UInt64, alignment: UInt64? = nil, context: UInt32, ticks: UInt32) {
    self.base = base
    self.size = size
    self.alignment = alignment
    self.context = context
    self.ticks = ticks
  }

  /// One past the last address that belongs to it. An allocation of zero bytes still owns its base.
  public var end: UInt64 {
    let (end, overflow) = base.addingReportingOverflow(max(size, 1))
    return overflow ? .max : end
  }

  /// Whether `address` is in it: base <= address < base + max(size, 1).
  public func contains(_ address: UInt64) -> Bool { address >= base && address &- base < max(size, 1) }
}

/// An address, with the allocations at it and beside it.
///
/// Each of the three allocations was live at some moment of the look-up, but there need not have
/// been a moment at which all three were.
public struct Lookup: Hashable, Sendable {
  /// The address that was asked for.
  public var address: UInt64
  /// The allocation that the address is in; nil if it is in none.
  public var containing: Allocation?
  /// The nearest live allocation below `containing`, or below the address if it is in none.
  public var previous: Allocation?
  /// The nearest live allocation that starts above the address.
  public var next: Allocation?

  /// A result of these parts.
  public init(address: UInt64, containing: Allocation?, previous: Allocation?, next: Allocation?) {
    self.address = address
    self.containing = containing
    self.previous = previous
    self.next = next
  }
}

/// Sums over the live allocations.
public struct AllocationTotals: Hashable, Sendable {
  /// How many they are.
  public var count: UInt64 = 0
  /// Bytes that their callers asked for; the sum wraps around, as sizes in a damaged segment may be
  /// anything.
  public var bytes: UInt64 = 0

  /// Sums over none.
  public init() {}
}
