// SPDX-License-Identifier: Apache-2.0
// One line on standard error that says what takes so long, and how much of it is done: shown from the second second on,
// if standard error is a terminal, and gone when the work is done or ^C ends it.

import Answers
import Bounds
import Glibc
import Synchronization
import SystemAccess

/// The line of one piece of work. Shown by a thread of its own.
final class ProgressLine: Sendable {
  private let words: String
  /// The part that is done, from 0 to 1; 0 where it is not known.
  private let part: @Sendable () -> Double
  private let isDone = Signal()
  private let thread: Mutex<pthread_t?> = Mutex(nil)

  private static let patience: Int32 = 1000
  private static let interval: Int32 = 250
  /// Moves to the line's start and erases it (ECMA-48, EL).
  private static let erasing: StaticString = "\r\u{1B}[K"
  private static let isShown = Atomic(false)

  /// Nil where nobody would see it.
  init?(_ words: String, part: @escaping @Sendable () -> Double = { 0 }) {
    guard isatty(STDERR_FILENO) == 1, getenv("TERM").map({ String(cString: $0) }) != "dumb" else { return nil }
    self.words = words
    self.part = part
    var created = pthread_t()
    let code = pthread_create(
      &created, nil,
      { argument in
        if let argument { Unmanaged<ProgressLine>.fromOpaque(argument).takeUnretainedValue().show() }
        return nil
      }, Unmanaged.passUnretained(self).toOpaque())
    guard code == 0 else { return nil }
    let started = created
    thread.withLock { $0 = started }
  }

  /// Ends the line. To be called before this value goes.
  func end() {
    isDone.set()
    if let thread = thread.withLock({ $0 }) { pthread_join(thread, nil) }
    Self.erase()
  }

  /// Erases the line that is shown, if one is: before something else is written there.
  static func erase() {
    guard isShown.exchange(false, ordering: .relaxed) else { return }
    _ = write(STDERR_FILENO, erasing.utf8Start, erasing.utf8CodeUnitCount)
  }

  private func show() {
    let began = seconds(of: CLOCK_MONOTONIC)
    guard !isDone.wait(milliseconds: Self.patience) else { return }
    // Where no other part of the program waits for ^C, it ends the program, and leaves nothing on the line.
    signal(SIGINT) { number in
      ProgressLine.erase()
      signal(number, SIG_DFL)
      raise(number)
    }
    repeat {
      let part = part()
      // bounded: a part is from 0 to 1; seconds in floating point; texts that are put together
      let share = part > 0 ? "\(Int(part * 100)) %, " : ""
      let end = ": \(share)\(Units.duration(seconds(of: CLOCK_MONOTONIC) - began))"
      let line = TextLayout.fit(TextLayout.printable(words), columns: TextLayout.columns - 1 - end.count) + end
      Self.isShown.store(true, ordering: .relaxed)
      _ = writeAll(Array("\(Self.erasing)\(line)".utf8), to: STDERR_FILENO)
    } while !isDone.wait(milliseconds: Self.interval)
    signal(SIGINT, SIG_DFL)
  }
}

/// Does a piece of work, with a line that says so if it takes longer than a second.
func showing<Result>(_ words: String, _ body: () throws(Complaint) -> Result) throws(Complaint) -> Result {
  let line = ProgressLine(words)
  defer { line?.end() }
  return try body()
}

extension Budget {
  /// As `run`, with a line that says so, and how much of it is done. `isQuiet`: without the line.
  func shown<Result>(
    _ words: String, isQuiet: Bool = false, _ body: () throws(Complaint) -> Result
  ) throws(Complaint) -> Result {
    let line = isQuiet ? nil : ProgressLine(words) { [self] in progress }
    defer { line?.end() }
    return try run(body)
  }
}
