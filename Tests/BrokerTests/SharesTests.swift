// SPDX-License-Identifier: Apache-2.0
// What one user may have of the broker, by a clock that the test turns; and answers that refuse.

import ServerProtocol
import SystemAccess
import TestSupport
import Testing

@testable import Broker

@Suite("shares", .bounded)
struct SharesTests {
  @Test("an allowance lets a burst pass, then its rate, and no more after any rest than a burst")
  func allowance() {
    var allowance = Allowance(burst: 10, rate: 2, at: 100)
    func taken(at time: Double, of tries: Int = 1000) -> Int {
      (0..<tries).reduce(0) { count, _ in count + (allowance.take(at: time) ? 1 : 0) }
    }
    #expect(taken(at: 100) == 10)
    #expect(taken(at: 100.4) == 0)
    #expect(taken(at: 101) == 2)
    #expect(taken(at: 1e9) == 10)
    // A clock that goes backwards gives nothing.
    #expect(taken(at: 5) == 0)
  }

  @Test("the first failure of a worker costs no time, each further one doubles it, to a bound, for ever")
  func backOff() {
    var backOff = BackOff()
    var now = 1000.0
    var waits: [Double] = []
    for _ in 0..<200 {
      backOff.failed(at: now, started: now - 0.1)
      waits.append(backOff.wait(at: now))
      now += backOff.wait(at: now) + 0.1
      #expect(backOff.wait(at: now) == 0)
    }
    #expect(waits.prefix(5) == [0, 0.25, 0.5, 1, 2] && waits.max() == BackOff.longest)
    // A worker that lived long makes up for all.
    backOff.failed(at: now + 100, started: now)
    #expect(backOff.wait(at: now + 100) == 0)
  }

  @Test("a user who did nothing for a while is forgotten, and one who waits for a worker is not")
  func forgetting() {
    var user = UserShares(at: 0)
    func isForgettable(at time: Double) -> Bool { user.isForgettable(at: time) }
    #expect(isForgettable(at: 100))
    _ = user.connections.take(at: 100)
    #expect(!isForgettable(at: 100))
    #expect(isForgettable(at: 101))
    for _ in 0..<10 { user.backOff.failed(at: 200, started: 199) }
    #expect(!isForgettable(at: 210))
  }

  @Test("a refusal is a whole answer of HTTP, whatever its words are")
  func refusal() throws {
    let bytes = Refusal(status: 503, what: "a \"quoted\" \\ word\n", advice: "wait").bytes
    let text = String(decoding: bytes, as: UTF8.self)
    let parts = text.split(separator: "\r\n\r\n", maxSplits: 1)
    #expect(parts.count == 2 && text.hasPrefix("HTTP/1.1 503 "))
    let body = try #require(parts.last)
    #expect(text.contains("Content-Length: \(body.utf8.count)\r\n"))
    #expect(body == "{\"error\":\"a \\\"quoted\\\" \\\\ word  — wait\"}\n")
    let hostile = Refusal(status: 429, what: "a\u{1B}\u{9B}\u{202E}\u{2028}\u{7F}b", advice: "").bytes
    #expect(String(decoding: hostile, as: UTF8.self).hasSuffix("{\"error\":\"a     b\"}\n"))
  }

  @Test("a line of the log has no character that a terminal acts upon")
  func printable() {
    let hostile = "a\u{1B}[2J\u{7}\u{9B}\u{202E}b\u{2028}\n\0é"
    #expect(Log.printable(hostile) == "a\\u{1b}[2J\\u{7}\\u{9b}\\u{202e}b\\u{2028}\\u{a}\\u{0}é")
  }
}
