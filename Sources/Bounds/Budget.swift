// SPDX-License-Identifier: Apache-2.0
// What one question may cost: time, memory, and the asker's patience.
//
// A question is answered inside `Budget.run`. Every loop over foreign data, however deep, asks a meter of the budget
// that is current on its thread whether it may go on, and stops early where it may not. So what such a loop gathered is
// cut short: whoever runs the question calls `check` behind it, and throws its result away. `run` does so.
//
// All questions of a process that run at one time share its memory, where it has a limit (`shareMemory`): each may have
// its budget, and the first that finds nothing left ends. What a question took comes back when `run` returns.

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
    /// Other questions have the memory that the process has for all of them.
    case sharedMemory = 4
  }

  /// The moment of CLOCK_MONOTONIC, in nanoseconds, at which time is over.
  private let deadline: UInt64
  private let seconds: Double
  private let bytesLeft: Atomic<Int>
  private let bytes: Int
  /// What of the memory for all questions this one has.
  private let shared = Atomic(0)
  /// The raw value of the limit that was met first; 0 while none was.
  private let met = Atomic<UInt8>(0)
  /// The words of the question, for the log; nil: no watchdog looks at the budget.
  let question: String?

  /// A budget that begins now, of `seconds` of time and `bytes` of memory (answers, sections, what is unpacked).
  /// `question`: the words of the question, if a watchdog is to look at it (Watchdog.swift).
  public init(seconds: Double, bytes: Int, question: String? = nil) {
    self.question = question
    self.bytes = min(max(bytes, 0), Self.most)
    // NaN is no time at all.
    let bounded = seconds > 0 ? min(seconds, 1e9) : 0
    self.seconds = bounded
    deadline = SystemAccess.nanoseconds(of: CLOCK_MONOTONIC) &+ UInt64(bounded * 1e9)  // bounded: at most 10^18
    bytesLeft = Atomic(self.bytes)
  }

  /// Ends the question as soon as its loops ask again. Any thread may call it, any number of times.
  public func cancel() { end(.cancelled) }

  /// Takes `count` bytes off. They come back by `giveBack` where the memory is free again before the answer is made.
  /// Returns whether the question may go on. Does not look at the clock.
  @discardableResult
  public func spend(bytes count: Int) -> Bool {
    guard count >= 0, met.load(ordering: .relaxed) == 0 else { return met.load(ordering: .relaxed) == 0 }
    // A piece counts as 256 TiB at most, so that the pieces of a question that ends at the first one too many can't
    // wrap around.
    let count = min(count, Self.most)
    guard bytesLeft.wrappingSubtract(count, ordering: .relaxed).newValue >= 0 else {
      end(.memory)
      return false
    }
    shared.wrappingAdd(count, ordering: .relaxed)
    if Self.sharedLeft.wrappingSubtract(count, ordering: .relaxed).newValue < 0 {
      // The others may go on with it.
      returnShared { min(count, $0) }
      end(.sharedMemory)
    }
    return met.load(ordering: .relaxed) == 0
  }

  /// Takes `count` bytes off the budget of this thread, if there is one. Returns whether the question may go on. To be
  /// called before the memory is taken, where its size is a foreign number or grows with one.
  @discardableResult
  public static func spendCurrent(bytes count: Int) -> Bool { current?.spend(bytes: count) ?? true }

  /// Bytes that `spend` took and that are free again.
  public func giveBack(bytes count: Int) {
    let count = max(0, min(count, Self.most))
    bytesLeft.wrappingAdd(count, ordering: .relaxed)
    returnShared { min(count, $0) }
  }

  private static let most = 1 << 48

  /// The memory for all questions that run at one time: without bounds, unless the process sets some.
  private static let sharedLeft = Atomic(1 << 60)

  /// Lets all questions that run at one time have `bytes` of memory together. To be called once, before the first.
  public static func shareMemory(bytes: Int) { sharedLeft.store(max(0, bytes), ordering: .relaxed) }

  /// Returns a part of what the question has of the memory for all. What was given back, or has gone with an earlier
  /// `run`, is not returned twice.
  private func returnShared(_ part: (Int) -> Int) {
    var held = shared.load(ordering: .relaxed)
    while true {
      let count = part(held)
      let (exchanged, now) = shared.weakCompareExchange(
        expected: held, desired: held &- count, ordering: .relaxed)
      if exchanged {
        Self.sharedLeft.wrappingAdd(count, ordering: .relaxed)
        return
      }
      held = now
    }
  }

  /// The limit that was met; nil while none was. Looks at the clock.
  public var limit: Limit? {
    if let limit = Limit(rawValue: met.load(ordering: .relaxed)) { return limit }
    if SystemAccess.nanoseconds(of: CLOCK_MONOTONIC) > deadline { end(.time) }
    return Limit(rawValue: met.load(ordering: .relaxed))
  }

  /// Whether time is over, whatever limit was met first.
  var isLate: Bool { SystemAccess.nanoseconds(of: CLOCK_MONOTONIC) > deadline }

  /// Whether a limit was met. Looks at the clock: in a loop, ask a meter.
  public var isExhausted: Bool { limit != nil }

  /// Throws if a limit was met.
  public func check() throws(Complaint) {
    switch limit {
    case nil: return
    case .time:
      throw Complaint(
        .budget, what: "the question took longer than \(Self.words(seconds)) s", advice: "ask for less at a time",
        code: ETIME)
    case .memory:
      throw Complaint(
        .budget, what: "the answer would take more than \(bytes >> 20) MiB of memory", advice: "ask for less at a time",
        code: ENOMEM)
    case .cancelled:
      throw Complaint(.budget, what: "whoever asked has gone", code: ECANCELED)
    case .sharedMemory:
      throw Complaint(
        .budget, what: "other questions of yours take the memory that there is for all of them",
        advice: "ask again in a moment, or fewer at a time", code: EAGAIN)
    }
  }

  /// A number of seconds, with a part of one where it is short.
  private static func words(_ seconds: Double) -> String {
    seconds < 10 && seconds != seconds.rounded() ? "\(seconds)" : "\(UInt64(seconds))"  // bounded: at most 10^9
  }

  private func end(_ limit: Limit) {
    _ = met.compareExchange(expected: 0, desired: limit.rawValue, ordering: .relaxed)
  }

  // MARK: progress

  /// Thousandths of the question's longest step that are done, for whoever waits; 0 where that is not known.
  private let thousandths = Atomic(0)

  /// Notes that `done` of `whole` steps of one kind are done. Numbers of a step that begins anew begin anew.
  public func note(done: Int, of whole: Int) {
    // NaN and infinity are none.
    let part = whole > 0 && done > 0 ? min(Double(done) / Double(whole), 1) : 0
    thousandths.store(Foreign<Int>(wholePartOf: part * 1000.0).saturated(), ordering: .relaxed)
  }

  /// The part that is done, from 0 to 1; 0 where it is not known.
  public var progress: Double { Double(thousandths.load(ordering: .relaxed)) / 1000.0 }

  // MARK: the budget of a thread

  /// Answers a question within this budget: it is current on this thread meanwhile. Throws if `body` does, or if a
  /// limit was met.
  public func run<Result>(_ body: () throws(Complaint) -> Result) throws(Complaint) -> Result {
    try check()
    let before = pthread_getspecific(Self.key)
    pthread_setspecific(Self.key, Unmanaged.passUnretained(self).toOpaque())
    defer { pthread_setspecific(Self.key, before) }
    let watched = question == nil ? nil : Watchdog.add(self)
    defer {
      if let watched { Watchdog.remove(watched) }
      returnShared { $0 }
    }
    let result = try body()
    try check()
    return result
  }

  /// Makes the budget current on this thread while `body` runs: one of several that answer a question together, within
  /// the `run` of the thread that was asked.
  func makeCurrent(_ body: () -> Void) {
    let before = pthread_getspecific(Self.key)
    pthread_setspecific(Self.key, Unmanaged.passUnretained(self).toOpaque())
    defer { pthread_setspecific(Self.key, before) }
    body()
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

/// Memory that grows with what a file says, by things of one kind: taken off the current budget in pieces, before it is
/// there. Where there is no budget, all is allowed.
public struct MemoryMeter {
  private static let mostPiece = 1 << 20
  private let bytes: Int
  private var left = 0
  /// Each piece is twice the one before: hundreds of small tables, one for each unit of debug information, say, must
  /// not cost a megabyte each.
  private var piece = 1 << 10

  /// `bytes`: of each thing, at least 1; an array that doubles, and a copy that is sorted, included.
  public init(bytes: Int) { self.bytes = max(bytes, 1) }

  /// Whether there may be one thing more.
  public mutating func goesOn() -> Bool {
    left &-= bytes
    if left >= 0 { return true }
    let more = max(piece, bytes)
    piece = min(Self.mostPiece, piece &* 2)
    let isAllowed = Budget.spendCurrent(bytes: more)
    left = isAllowed ? more &- bytes : 0
    return isAllowed
  }
}

/// Asks, for one loop, whether the current budget allows another round. Where there is no budget, every round is
/// allowed. A round costs a decrement; the budget is looked for only when the clock is due, so that a meter may stand
/// in any loop.
@frozen
public struct BudgetMeter {
  @usableFromInline let interval: UInt32
  /// Rounds up to the next look at the budget, which is made in the last of them.
  @usableFromInline var left: UInt32

  /// `interval`: rounds between two looks at the clock. 1 where a round makes a system call.
  @inlinable
  public init(interval: UInt32 = 1024) {
    self.interval = max(interval, 1)
    left = self.interval
  }

  /// Whether the loop may go on. To be asked before each round. Once it says no, it says no again.
  @inlinable
  public mutating func goesOn() -> Bool {
    if left > 1 {
      left &-= 1
      return true
    }
    guard Self.isAllowed() else { return false }
    left = interval
    return true
  }

  /// Whether the budget of this thread allows a round more. Looks at the clock.
  @usableFromInline @inline(never)
  static func isAllowed() -> Bool { Budget.current.map { !$0.isExhausted } ?? true }
}
