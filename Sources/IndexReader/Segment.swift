// The entry point: a segment file, mapped read-only.

import SharedLayout

/// A process's index.
public struct Segment: ~Copyable, Sendable {
  public let path: String

  /// Opens and validates a segment.
  public init(path: String) throws(SegmentError) { throw .noSuchFile(path: path) }

  // MARK: facts of the header

  public var processID: Int32 { 0 }
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64 { 0 }
  /// What the process said its user was. For permissions, use `ownerID`.
  public var userID: UInt32 { 0 }
  /// The file's owner.
  public var ownerID: UInt32 { 0 }
  public var command: [String] { [] }
  public enum State: Hashable, Sendable { case starting, live, exited }
  public var state: State { .starting }
  public var hasFullStacks: Bool { false }
  /// Whether the process still runs, by /proc.
  public var isProcessAlive: Bool { false }
  /// The file was cut while mapped.
  public var isBroken: Bool { false }
  /// Throws `.broken` or `.truncated` if what was read so far is not to be believed.
  public func checkIntact() throws(SegmentError) {}
  public var counters: [(name: String, value: UInt64)] { [] }

  // MARK: look-up

  public func allocation(containing address: UInt64) -> Allocation? { nil }
  /// The live allocation with the highest base below `address`.
  public func allocation(before address: UInt64) -> Allocation? { nil }
  /// The live allocation with the lowest base above `address`.
  public func allocation(after address: UInt64) -> Allocation? { nil }
  public func lookup(_ address: UInt64) -> Lookup { Lookup(address: address, containing: nil, previous: nil, next: nil) }
  public func wasUsed(_ address: UInt64) -> Bool { false }
  /// Calls `body` with each live allocation whose base is in `range`, in order of address.
  public func forEachAllocation<Failure: Error>(
    in range: ClosedRange<UInt64>? = nil, _ body: (Allocation) throws(Failure) -> Void
  ) throws(Failure) {}
  public func totals(in range: ClosedRange<UInt64>? = nil) -> AllocationTotals { AllocationTotals() }

  // MARK: origin

  public func context(_ id: UInt32) -> Context? { nil }
  public func stack(ofNode node: UInt32) -> Stack { Stack(addresses: [], truncation: nil) }
  public func thread(slot: UInt32, at ticks: UInt32) -> ThreadIdentity? { nil }
  /// The present holders of all thread slots, ended ones that were not replaced included.
  public var threads: [ThreadIdentity] { [] }
  public var modules: [Module] { [] }
  public func module(containing address: UInt64, at ticks: UInt32) -> Module? { nil }

  // MARK: time

  /// A reading of the clock for many conversions; makes a system call or two.
  public func clock() -> SegmentClock { SegmentClock() }
  /// Seconds since `ticks`: until now if the process runs, else until its last known moment.
  public func age(ofTicks ticks: UInt32) -> Double { clock().age(ofTicks: ticks) }
}

/// Relates ticks to seconds, as of one moment.
public struct SegmentClock: Sendable {
  /// Seconds from `ticks` to the clock's moment, never negative.
  public func age(ofTicks ticks: UInt32) -> Double { 0 }
  /// Seconds since 1970-01-01 UTC.
  public func wallTime(ofTicks ticks: UInt32) -> Double { 0 }
}
