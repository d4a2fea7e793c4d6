// SPDX-License-Identifier: Apache-2.0
// What the broker reads of a request: the process in its first line, however the line is cut or spoilt.

import Glibc
import TestSupport
import Testing

@testable import Broker

@Suite("the first line", .bounded)
struct FirstLineTests {
  private func line(_ text: String) -> FirstLine { FirstLine(Array(text.utf8)[...]) }

  @Test("names a process by its id, or by its id and start time")
  func processes() {
    for path in [
      "/v1/processes/4242", "/v1/processes/4242/query?address=1", "/v1/processes/4242?x", "http://x/v1/processes/4242",
    ] {
      #expect(line("GET \(path) HTTP/1.1\r\n") == .process(id: 4242, startTime: nil), "\(path)")
    }
    #expect(line("HEAD /v1/processes/7@99/top HTTP/1.1\r\n") == .process(id: 7, startTime: 99))
    #expect(line("POST /v1/processes/7@99 HTTP/1.1\r\n") == .process(id: 7, startTime: 99))
  }

  @Test("names none otherwise")
  func others() {
    for text in [
      "GET /v1/processes HTTP/1.1\r\n", "GET /v1/processes/ HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\n",
      "GET /v1/processes/x HTTP/1.1\r\n", "GET /v1/processes/0 HTTP/1.1\r\n", "GET /v1/processes/-1 HTTP/1.1\r\n",
      "GET /v1/processes/2147483648 HTTP/1.1\r\n", "GET /v1/processes/99999999999999999999999 HTTP/1.1\r\n",
      "GET /v1/processes/7@ HTTP/1.1\r\n", "GET /v1/processes/7@x HTTP/1.1\r\n",
      "GET /v1/processes/7@99999999999999999999999 HTTP/1.1\r\n", "nonsense\r\n", "\r\n", " \r\n", "\0\0\0\n",
      "GET  /v1/processes/7 HTTP/1.1\r\n", "GET ftp:/v1/processes/7 HTTP/1.1\r\n",
      String(repeating: "x", count: FirstLine.limit), "GET /" + String(repeating: "x", count: FirstLine.limit),
    ] {
      #expect(line(text) == .other, "\(text)")
    }
  }

  @Test("is partial until enough of it has come, and never says another process meanwhile")
  func pieces() {
    let whole = Array("GET /v1/processes/4242@17/query HTTP/1.1\r\nHost: x\r\n\r\n".utf8)
    var known = false
    for count in 0...whole.count {
      switch FirstLine(whole[..<count]) {
      case .partial: #expect(!known, "\(count)")
      case .process(let id, let startTime):
        #expect(id == 4242 && startTime == 17)
        known = true
      default: Issue.record("\(count) bytes")
      }
    }
    #expect(known)
  }

  @Test("any bytes are some line")
  func noise() {
    var random = RandomNumbers()
    let words = ["GET ", "/v1/processes/", "1", "@", "9", "http://", "/", " ", "\r", "\n", "\0", "é"].map {
      Array($0.utf8)
    }
    for _ in 0..<20_000 {
      let bytes = (0..<Int.random(in: 0..<12, using: &random)).flatMap { _ in words.randomElement(using: &random) ?? []
      }
      if case .process(let id, _) = FirstLine(bytes[...]) { #expect(id > 0) }
    }
  }

  @Test("is looked at without being consumed")
  func peeking() throws {
    let pair = try #require(MessageChannel.pair(stream: true))
    var ends = [pair.0, pair.1]
    defer { for end in ends where end >= 0 { close(end) } }
    #expect(FirstLine.peek(ends[0]) == .partial)
    let bytes = Array("GET /v1/processes/5 HTTP/1.1\r\n".utf8)
    #expect(write(ends[1], bytes, bytes.count) == bytes.count)
    for _ in 0..<2 { #expect(FirstLine.peek(ends[0]) == .process(id: 5, startTime: nil)) }
    var read = [UInt8](repeating: 0, count: 100)
    #expect(recv(ends[0], &read, 100, 0) == bytes.count)
    // The beginning of a line, whose rest can't come any more.
    #expect(write(ends[1], bytes, 10) == 10)
    #expect(FirstLine.peek(ends[0]) == .partial)
    close(ends[1])
    ends[1] = -1
    #expect(FirstLine.peek(ends[0]) == .ended)
    #expect(recv(ends[0], &read, 100, 0) == 10)
    #expect(FirstLine.peek(ends[0]) == .ended)
  }
}
