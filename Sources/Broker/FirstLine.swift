// SPDX-License-Identifier: Apache-2.0
// What root asks about, by the first line of the first request of a connection: all that the broker reads of HTTP. The
// bytes are looked at and stay where they are (MSG_PEEK): whoever gets the connection reads them.
//
// A line that is none, or that names no process, is no error here: the gatherer answers it.

import CBroker
import Glibc

/// What the first line of a connection is about.
enum FirstLine: Equatable {
  /// `…/v1/processes/PID…` or `…/v1/processes/PID@START…`.
  case process(id: Int32, startTime: UInt64?)
  case other
  /// The line has not come so far that this could be said.
  case partial
  /// The other side has gone.
  case ended

  /// Bytes that are looked at: more than any process's number has in front of it.
  static let limit = 256

  /// Looks at what has come on a non-blocking connection.
  static func peek(_ connection: Int32) -> FirstLine {
    var bytes = [UInt8](repeating: 0, count: Self.limit)
    let count = bytes.withUnsafeMutableBytes { allocs_peek(connection, $0.baseAddress, $0.count) }
    if count < 0 { return errno == EAGAIN || errno == EINTR ? .partial : .ended }
    let line = count == 0 ? .ended : FirstLine(bytes[..<count])
    // A side that has gone says no more, though what it said is still here.
    var request = pollfd(fd: connection, events: Int16(EPOLLRDHUP.rawValue), revents: 0)
    return line == .partial && poll(&request, 1, 0) > 0 ? .ended : line
  }

  init(_ bytes: ArraySlice<UInt8>) {
    let isWhole = bytes.count >= Self.limit || bytes.contains(UInt8(ascii: "\n")) || bytes.contains(UInt8(ascii: "\r"))
    self = Self.read(bytes.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }, isWhole: isWhole)
  }

  private static func read(_ line: ArraySlice<UInt8>, isWhole: Bool) -> FirstLine {
    let unfinished = isWhole ? FirstLine.other : .partial
    guard let space = line.firstIndex(of: UInt8(ascii: " ")) else { return unfinished }
    var target = line[space...].dropFirst()
    guard let first = target.first else { return unfinished }
    // The absolute form: http://HOST/PATH.
    if first != UInt8(ascii: "/") {
      guard let slashes = target.firstIndex(of: UInt8(ascii: "/")),
        target[slashes...].count >= 2, target[slashes &+ 1] == UInt8(ascii: "/"),
        let path = target[slashes...].dropFirst(2).firstIndex(of: UInt8(ascii: "/"))
      else { return target.contains(UInt8(ascii: " ")) ? .other : unfinished }
      target = target[path...]
    }
    let prefix = Array("/v1/processes/".utf8)
    guard target.count > prefix.count else { return prefix.starts(with: target) ? unfinished : .other }
    guard target.starts(with: prefix) else { return .other }
    var rest = target.dropFirst(prefix.count)
    guard let id = number(&rest, isWhole) else { return rest.isEmpty ? unfinished : .other }
    guard let processID = Int32(exactly: id), processID > 0 else { return .other }
    guard rest.first == UInt8(ascii: "@") else { return .process(id: processID, startTime: nil) }
    rest = rest.dropFirst()
    guard let startTime = number(&rest, isWhole) else { return rest.isEmpty ? unfinished : .other }
    return .process(id: processID, startTime: startTime)
  }

  /// The decimal number at the start of `rest`, which ends before its end; nil if there is none.
  private static func number(_ rest: inout ArraySlice<UInt8>, _ isWhole: Bool) -> UInt64? {
    var value: UInt64 = 0
    var digits = 0
    while let byte = rest.first, UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte {
      let (product, overflowed) = value.multipliedReportingOverflow(by: 10)
      let (sum, carried) = product.addingReportingOverflow(UInt64(byte & 15))
      guard !overflowed, !carried else { return nil }
      (value, digits) = (sum, digits &+ 1)
      rest = rest.dropFirst()
    }
    // More digits may follow.
    guard digits > 0, !rest.isEmpty || isWhole else { return nil }
    return value
  }
}
