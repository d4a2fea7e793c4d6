// Seconds from ticks: the counter's rate, measured between two moments that are known in both counter and clock.
//
// A running process's counter is the reader's own, so the second moment is now. That of a dead one may be of another
// machine or boot: its second moment is the latest that the agent noted, and the two systems share only the wall clock.

import Glibc
import SharedLayout

/// Relates ticks to seconds, as of one moment. A value: any thread may use it.
public struct SegmentClock: Sendable {
  private let firstCounter: UInt64
  private let firstRealtime: UInt64
  private let shift: UInt32
  /// The counter that times may reach; none lies above it.
  private let latestCounter: UInt64
  /// Nanoseconds of now since the first moment.
  private let elapsed: UInt64
  /// Nanoseconds; nil if the two moments give no rate.
  private let cycle: Double?

  init(_ calibration: allocs_calibration, isAlive: Bool, shift: UInt32) {
    let first = calibration.first
    firstCounter = first.counter
    firstRealtime = calibration.first_realtime_ns
    self.shift = shift
    let own = allocs_clock_point(counter: allocs_counter(), monotonic_ns: Self.now(CLOCK_MONOTONIC))
    if isAlive {
      cycle = Self.cycle(from: first, to: own) ?? Self.cycle(from: first, to: calibration.latest)
      latestCounter = own.counter
      elapsed = own.monotonic_ns > first.monotonic_ns ? own.monotonic_ns - first.monotonic_ns : 0
    } else {
      // A pair that is closer than this is too short to measure with. Then the reader's own rate serves if its clock
      // can have seen the first moment: a segment in memory doesn't outlive the boot.
      let shortest: UInt64 = 50_000_000
      let (span, isBefore) = calibration.latest.monotonic_ns.subtractingReportingOverflow(first.monotonic_ns)
      let noted = Self.cycle(from: first, to: calibration.latest)
      cycle = isBefore || span < shortest ? Self.cycle(from: first, to: own) ?? noted : noted
      // The latest moment is noted on slow paths only; allocations may be younger. Half a wrap is room enough.
      let room = UInt64(1) << UInt64(ALLOCS_TICK_BITS - 1 + shift)
      let (limit, isFar) = calibration.latest.counter.addingReportingOverflow(room)
      latestCounter = isFar ? .max : limit
      let realtime = Self.now(CLOCK_REALTIME)
      elapsed = realtime > firstRealtime ? realtime - firstRealtime : 0
    }
  }

  private static func cycle(from first: allocs_clock_point, to second: allocs_clock_point) -> Double? {
    guard second.counter > first.counter, second.monotonic_ns > first.monotonic_ns else { return nil }
    return Double(second.monotonic_ns - first.monotonic_ns) / Double(second.counter - first.counter)
  }

  private static func now(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// Nanoseconds from the first moment to the start of the tick.
  private func offset(ofTicks ticks: UInt32) -> Double? {
    guard let cycle else { return nil }
    let firstTicks = UInt32(truncatingIfNeeded: firstCounter >> UInt64(shift)) & ALLOCS_TICK_MASK
    // The first time after the start that has these 31 bits; if the process ran longer than they last, the last one.
    var counter = (firstCounter >> UInt64(shift) &+ UInt64(allocs_ticks_between(firstTicks, ticks))) << UInt64(shift)
    let wrap = UInt64(1) << UInt64(ALLOCS_TICK_BITS + shift)
    if wrap != 0, counter <= latestCounter { counter += (latestCounter - counter) / wrap * wrap }
    // A tick begins up to its own length before the first moment that lies in it.
    return counter > firstCounter ? Double(counter - firstCounter) * cycle : 0
  }

  /// Seconds from `ticks` until now, never negative; nil if the segment's calibration gives no rate. As exact as a tick
  /// is long, some 10 ms. Right for anything younger than one wrap, about a year.
  public func age(ofTicks ticks: UInt32) -> Double? {
    offset(ofTicks: ticks).map { max(0, Double(elapsed) - $0) / 1e9 }
  }

  /// Seconds since 1970-01-01 UTC; nil if the segment's calibration gives no rate.
  public func wallTime(ofTicks ticks: UInt32) -> Double? {
    offset(ofTicks: ticks).map { (Double(firstRealtime) + $0) / 1e9 }
  }

  /// Seconds since the agent started in the process.
  public var uptime: Double { Double(elapsed) / 1e9 }
}

extension Segment {
  /// A reading of the clock for many conversions. A few system calls.
  public func clock() -> SegmentClock {
    SegmentClock(calibration(), isAlive: isProcessAlive, shift: geometry.tickShift)
  }

  /// Seconds since `ticks`; for more than a few, take one `clock()`.
  public func age(ofTicks ticks: UInt32) -> Double? { clock().age(ofTicks: ticks) }

  private func calibration() -> allocs_calibration {
    let entry = headerField(\.clock, as: allocs_calibration.self)
    let sequence = headerField(\.clock.sequence, as: UInt32.self)
    var copy = allocs_calibration()
    // A change takes less than a microsecond, unless the process died in the middle.
    let rounds = 10_000
    for _ in 0..<rounds {
      // Pairs with the writer's release of an even number.
      let before = allocs_load_acquire_u32(sequence)
      copyWords(of: entry, into: &copy)
      allocs_fence_acquire()
      if before & 1 == 0, allocs_load_relaxed_u32(sequence) == before { return copy }
    }
    copy.latest = copy.first
    return copy
  }
}
