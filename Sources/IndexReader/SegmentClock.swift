// SPDX-License-Identifier: Apache-2.0
// Seconds from ticks. A tick is 1/64 s of CLOCK_MONOTONIC. So within one boot the present time is
// the reader's own clock, shifted where the process is in another time namespace. When the agent
// started, it noted one moment on CLOCK_MONOTONIC and on CLOCK_REALTIME: the two numbers tie the
// ticks to wall clock time, which outlives a boot.

import Glibc
import SharedLayout
import SystemAccess

/// Relates ticks and stamps to seconds, as of one moment. A value: any thread may use it.
public struct SegmentClock: Hashable, Sendable {
  /// When the agent started, in nanoseconds of the process's CLOCK_MONOTONIC, and of
  /// CLOCK_REALTIME.
  private let startMonotonic: UInt64
  private let startRealtime: UInt64
  /// Nanoseconds from the agent's start until now.
  private let elapsed: UInt64
  private let isAlive: Bool
  /// The agent's start in ticks, and ticks from then until now.
  private let startTicks: UInt32
  private let ticksUntilNow: UInt64
  /// How far the process's CLOCK_MONOTONIC is ahead of the reader's, in nanoseconds.
  private let shift: Int64

  /// `startMonotonic`, `startRealtime`: the agent's start, in nanoseconds of both clocks.
  /// `elapsed`: nanoseconds from that start until now. `isAlive`: whether the process runs.
  /// `shift`: how far the process's CLOCK_MONOTONIC is ahead of the reader's, in nanoseconds.
  public init(startMonotonic: UInt64, startRealtime: UInt64, elapsed: UInt64, isAlive: Bool, shift: Int64 = 0) {
    self.startMonotonic = startMonotonic
    self.startRealtime = startRealtime
    self.elapsed = elapsed
    self.isAlive = isAlive
    self.shift = shift
    startTicks = Self.ticks(startMonotonic)
    ticksUntilNow = elapsed / 1_000_000_000 &* UInt64(ALLOCS_TICKS_PER_SECOND)
  }

  /// A clock as of a moment of a recording. `stamp`: the moment; `ticks`: of a record that is older
  /// than all others; `monotonic` and `realtime`: one moment, in nanoseconds of both clocks.
  public init(at stamp: UInt64, oldest ticks: UInt32, monotonic: UInt64, realtime: UInt64) {
    // Half of a tick's length more, as a tick stands for what began in it.
    let age = UInt64(truncatingIfNeeded: allocs_age_ticks(ticks, Self.ticks(stamp))) &+ 1
    let nanoseconds = min(age &* (1_000_000_000 / UInt64(ALLOCS_TICKS_PER_SECOND)), stamp)
    let start = stamp &- nanoseconds
    self.init(
      startMonotonic: start, startRealtime: realtime &- (monotonic &- start), elapsed: nanoseconds, isAlive: false)
  }

  init(_ start: allocs_clock_start, isAlive: Bool, shift: Int64) {
    // A dead process's segment may come from another machine or boot: then only the wall clock is
    // common.
    let now =
      isAlive ? nanoseconds(of: CLOCK_MONOTONIC) &+ UInt64(bitPattern: shift) : nanoseconds(of: CLOCK_REALTIME)
    let first = isAlive ? start.monotonic_ns : start.realtime_ns
    self.init(
      startMonotonic: start.monotonic_ns, startRealtime: start.realtime_ns, elapsed: now > first ? now &- first : 0,
      isAlive: isAlive, shift: shift)
  }

  /// Ticks from the agent's start to the moment of `ticks`: the order of records in time, as ticks
  /// alone wrap around. If the process has run longer than one wrap, the latest time until now that
  /// has these 31 bits is meant. When a dead process died is written nowhere, so there its first
  /// wrap is meant.
  public func order(ofTicks ticks: UInt32) -> UInt64 {
    let sinceStart = UInt64(truncatingIfNeeded: allocs_age_ticks(startTicks, ticks))
    return ticksUntilNow <= UInt64(ALLOCS_TICK_MASK) ? sinceStart : latestOrder(sinceStart)
  }

  private func latestOrder(_ sinceStart: UInt64) -> UInt64 {
    let wrap = UInt64(ALLOCS_TICK_MASK) + 1
    guard isAlive, ticksUntilNow > sinceStart else { return sinceStart }
    // bounded: 2^64 ns are less than 2^41 ticks, and a wrap is not 0
    return sinceStart + (ticksUntilNow - sinceStart) / wrap * wrap
  }

  /// Seconds from the agent's start to the tick, never negative.
  private func offset(ofTicks ticks: UInt32) -> Double {
    Double(order(ofTicks: ticks)) / Double(ALLOCS_TICKS_PER_SECOND)
  }

  /// Seconds from the moment of an `order(ofTicks:)` until now, never negative.
  public func age(ofOrder order: UInt64) -> Double {
    max(0, Double(elapsed) / 1e9 - Double(order) / Double(ALLOCS_TICKS_PER_SECOND))
  }

  /// The order of a record that is made at a moment, which is told in seconds until now. Of moments
  /// before the agent's start it is 0; a moment may lie in the future.
  public func order(ofAge age: Double) -> UInt64 { order(seconds: Double(elapsed) / 1e9 - age) }

  /// The order of a record that is made at a moment, in seconds since 1970-01-01 UTC. The agent
  /// read both clocks when it started: where the system's time was set since, the moment is of the
  /// time as it was then.
  public func order(ofWallTime time: Double) -> UInt64 { order(seconds: time - Double(startRealtime) / 1e9) }

  /// `seconds`: from the agent's start.
  private func order(seconds: Double) -> UInt64 {
    // Nanoseconds of the process's CLOCK_MONOTONIC; the year 2262 is far enough.
    let nanoseconds = (Double(startMonotonic) + max(0, seconds) * 1e9).rounded(.down)
    let moment = UInt64(exactly: nanoseconds) ?? 1 << 63
    return Self.wholeTicks(moment) &- Self.wholeTicks(startMonotonic)
  }

  /// The ticks of a time in nanoseconds that `allocs_ticks` gives, before they wrap.
  private static func wholeTicks(_ nanoseconds: UInt64) -> UInt64 {
    let (seconds, rest) = nanoseconds.quotientAndRemainder(dividingBy: 1_000_000_000)
    return seconds &* UInt64(ALLOCS_TICKS_PER_SECOND) &+ UInt64(truncatingIfNeeded: allocs_ticks(0, rest))
  }

  /// Seconds from `ticks` until now, never negative, exact to about 20 ms. Right for anything that
  /// is younger than one wrap, 388 days, in a running process, and for anything that a dead process
  /// did in its first 388 days.
  public func age(ofTicks ticks: UInt32) -> Double { max(0, Double(elapsed) / 1e9 - offset(ofTicks: ticks)) }

  /// The time of `ticks` in seconds since 1970-01-01 UTC.
  public func wallTime(ofTicks ticks: UInt32) -> Double { Double(startRealtime) / 1e9 + offset(ofTicks: ticks) }

  /// Seconds from an event's stamp (nanoseconds of the process's CLOCK_MONOTONIC) until now, never
  /// negative.
  public func age(ofStamp stamp: UInt64) -> Double {
    max(0, (Double(elapsed) - Double(Int64(bitPattern: stamp &- startMonotonic))) / 1e9)
  }

  /// The present time in the ticks of a process in the reader's time namespace.
  public static var ticksNow: UInt32 { ticks(nanoseconds(of: CLOCK_MONOTONIC)) }

  /// The present time in the ticks of the process.
  public var ticksNow: UInt32 { Self.ticks(stampNow) }

  /// The present time as an event's stamp.
  public var stampNow: UInt64 { nanoseconds(of: CLOCK_MONOTONIC) &+ UInt64(bitPattern: shift) }

  private static func ticks(_ now: UInt64) -> UInt32 { allocs_ticks(now / 1_000_000_000, now % 1_000_000_000) }

  /// Seconds since the agent started in the process.
  public var uptime: Double { Double(elapsed) / 1e9 }
}

extension Segment {
  /// How far the process's CLOCK_MONOTONIC, in which ticks and stamps count, is ahead of the
  /// reader's, in nanoseconds.
  public var monotonicShift: Int64 { clockOffsets.monotonicShift }

  /// A reading of the clock for many conversions. A few system calls.
  public func clock() -> SegmentClock { clock(isAlive: isProcessAlive) }

  /// As `clock()`, for a caller that knows whether the process runs.
  public func clock(isAlive: Bool) -> SegmentClock {
    var start = allocs_clock_start()
    copyWords(of: headerField(\.clock, as: allocs_clock_start.self), into: &start)
    return SegmentClock(start, isAlive: isAlive, shift: monotonicShift)
  }

  /// Seconds since `ticks`. For more than a few conversions take one `clock()`.
  public func age(ofTicks ticks: UInt32) -> Double { clock().age(ofTicks: ticks) }
}
