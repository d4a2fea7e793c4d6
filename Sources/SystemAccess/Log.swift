// SPDX-License-Identifier: Apache-2.0
// The log of allocsd's broker on standard error, in the form of the workers' (swift-log), without that library. Text
// from outside is escaped: characters that a terminal would act upon, and all that belongs to no line.

import ByteText
import Glibc

/// Levels of the log, by swift-log's words.
public enum LogLevel: String, CaseIterable, Comparable, Sendable {
  case trace, debug, info, notice, warning, error, critical

  public static func < (one: LogLevel, other: LogLevel) -> Bool {
    allCases.firstIndex(of: one) ?? 0 < allCases.firstIndex(of: other) ?? 0
  }
}

/// Writes lines. Standard error may be a pipe that nobody reads: a line that would wait is lost.
public struct Log: Sendable {
  let level: LogLevel

  public init(level: LogLevel) { self.level = level }

  public func callAsFunction(_ level: LogLevel, _ text: String, _ details: (name: String, value: String)...) {
    guard level >= self.level else { return }
    var now = time(nil)
    var parts = tm()
    localtime_r(&now, &parts)
    var stamp = [CChar](repeating: 0, count: 64)
    strftime(&stamp, stamp.count, "%Y-%m-%dT%H:%M:%S%z", &parts)
    let words = details.map { " \($0.name)=\(Self.printable($0.value))" }.joined()
    let time = String(decoding: stamp.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    Self.write("\(time) \(level.rawValue) allocsd:\(words) [allocsd] \(Self.printable(text))\n")
  }

  /// A line of a worker of `who`, as the worker wrote it.
  public func line(_ bytes: ArraySlice<UInt8>, from who: String) {
    Self.write("[\(who)] \(ForeignText(reversibly: bytes))\n")
  }

  private static func write(_ line: String) {
    var line = line
    line.withUTF8 { bytes in
      var request = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
      // A pipe that is ready takes a line of up to 4096 bytes without waiting.
      guard poll(&request, 1, 0) == 1, request.revents & Int16(POLLOUT) != 0 else { return }
      _ = Glibc.write(STDERR_FILENO, bytes.baseAddress, min(bytes.count, 4096))
    }
  }

  /// Text of a line: much of it is from elsewhere.
  package static func printable(_ text: String) -> String { text.escapedAsForeign }
}
