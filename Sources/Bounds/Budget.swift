// SPDX-License-Identifier: Apache-2.0
// What one question may cost: time, memory, and the asker's patience.
//
// A question is answered inside `Budget.run`. Every loop over foreign data, however deep, asks a meter of the budget
// that is current on its thread whether it may go on, and stops early where it may not. So what such a loop gathered is
// cut short: whoever runs the question calls `check` behind it, and throws its result away. `run` does so.

import Glibc
import Synchronization
import SystemAccess

/// The limits of one question. Thread-safe: another thread may cancel it.
public final class Budget: Sendable {
  /// Why a question had to end.
  public enum Limit: UInt8, Sendable {
    case time = 1
    case memory = 2
    /// Whoever asked has gone.
    case cancelled = 3
  }

  /// The moment of CLOCK_MONOTONIC, in nanoseconds, at which time is over.
  private let deadline: UInt64
  private let seconds: Double
  private let bytesLeft: Atomic<Int>
  private let bytes: Int
  /// The raw value of the limit that was met first; 0 while none was.
  private let met = Atomic<UInt8>(0)

  /// A budget that begins now, of `seconds` of time and `bytes` of memory (answers, sections, what is unpacked).
  public init(seconds: Double, bytes: Int) {
    self.seconds = seconds
    self.bytes = min(max(bytes, 0), Self.most)
    let nanoseconds = UInt64(max(0, min(seconds, 1e9)) * 1e9)
    deadline = SystemAccess.nanoseconds(of: CLOCK_MONOTONIC) &+ nanoseconds
    bytesLeft = Atomic(self.bytes)
  }

  /// Ends the question as soon as its loops ask again. Any thread may call it, any number of times.
  public func cancel() { end(.cancelled) }

  /// Takes `count` bytes off. They come back by `giveBack` where the memory is free again before the answer is made.
  /// Returns whether the question may go on.
  @discardableResult
  public func spend(bytes count: Int) -> Bool {
    guard count >= 0, !isExhausted else { return !isExhausted }
    // A piece counts as 256 TiB at most, so that the pieces of a question that ends at the first one too many can't wrap
    // around.
    let left = bytesLeft.wrappingSubtract(min(count, Self.most), ordering: .relaxed).newValue
    if left < 0 { end(.memory) }
    return !isExhausted
  }

  /// Bytes that `spend` took and that are free again.
  public func giveBack(bytes count: Int) { bytesLeft.wrappingAdd(max(0, min(count, Self.most)), ordering: .relaxed) }

  private static let most = 1 << 48

  /// The limit that was met; nil while none was. Looks at the clock.
  public var limit: Limit? {
    if let limit = Limit(rawValue: met.load(ordering: .relaxed)) { return limit }
    if SystemAccess.nanoseconds(of: CLOCK_MONOTONIC) > deadline { end(.time) }
    return Limit(rawValue: met.load(ordering: .relaxed))
  }

  /// Whether a limit was met. Looks at the clock: in a loop, ask a meter.
  public var isExhausted: Bool { limit != nil }

  /// Throws if a limit was met.
  public func check() throws(Complaint) {
    switch limit {
    case nil: return
    case .time:
      throw Complaint(
        .budget, what: "the question took longer than \(Int(seconds)) s", advice: "ask for less at a time", code: ETIME)
    case .memory:
      throw Complaint(
        .budget, what: "the answer would take more than \(bytes >> 20) MiB of memory", advice: "ask for less at a time",
        code: ENOMEM)
    case .cancelled:
      throw Complaint(.budget, what: "whoever asked has gone", code: ECANCELED)
    }
  }

  private func end(_ limit: Limit) {
    _ = met.compareExchange(expected: 0, desired: limit.rawValue, ordering: .relaxed)
  }

  // MARK: the budget of a thread

  /// Answers a question within this budget: it is current on this thread meanwhile. Throws if `body` does, or if a
  /// limit was met.
  public func run<Result>(_ body: () throws(Complaint) -> Result) throws(Complaint) -> Result {
    try check()
    let before = pthread_getspecific(Self.key)
    pthread_setspecific(Self.key, Unmanaged.passUnretained(self).toOpaque())
    defer { pthread_setspecific(Self.key, before) }
    let result = try body()
    try check()
    return result
  }

  /// The budget within which this thread answers a question; nil where it answers none.
  public static var current: Budget? {
    pthread_getspecific(key).map { Unmanaged<Budget>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Nothing is freed with a thread: `run` keeps the budget alive, and takes it off the thread.
  private static let key: pthread_key_t = {
    var key = pthread_key_t()
    pthread_key_create(&key, nil)
    return key
  }()
}

/// Asks, for one loop, whether the current budget allows another round. Where there is no budget, every round is
/// allowed.
public struct BudgetMeter {
  private let budget: Budget?
  private let interval: UInt32
  private var rounds: UInt32 = 0

  /// `interval`: rounds between two looks at the clock. 1 where a round makes a system call.
  public init(interval: UInt32 = 1024) {
    budget = Budget.current
    self.interval = max(interval, 1)
  }

  /// Whether the loop may go on. To be asked before each round.
  public mutating func goesOn() -> Bool {
    guard let budget else { return true }
    rounds &+= 1
    guard rounds >= interval else { return true }
    rounds = 0
    return !budget.isExhausted
  }
}
