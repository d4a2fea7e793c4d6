// SPDX-License-Identifier: Apache-2.0
// What of TCP gets through to the server: heads of requests, tokens, addresses; and the relay, between sockets of this
// process.

import Foundation
import SystemAccess
import TestSupport
import Testing

@testable import Front

@Suite("the page over TCP", .bounded)
struct FrontTests {
  private static let token = Token(text: String(repeating: "a1", count: 32))

  private func head(_ first: String, _ fields: [String]) -> RequestHead {
    RequestHead(Array("\(([first] + fields).joined(separator: "\r\n"))\r\n\r\n".utf8), token: Self.token)
  }

  private func status(_ head: RequestHead) -> Int {
    switch head {
    case .partial: 0
    case .accepted, .file: 200
    case .refused(let status, _, _): status
    }
  }

  private let authorized = "Authorization: Bearer " + String(repeating: "a1", count: 32)

  @Test("a request with the token goes on, without the token, and asks for the end of the connection behind it")
  func accepted() throws {
    let first = "GET /v1/processes?x=1 HTTP/1.1"
    let read = head(
      first,
      ["Host: 127.0.0.1:8080", authorized, "Accept: text/plain", "Cookie: a=b", "X-Other: y", "Connection: close"])
    guard case .accepted(let bytes, let length) = read else { throw HarnessError("\(read)") }
    #expect(
      String(decoding: bytes, as: UTF8.self)
        == "\(first)\r\nHost: localhost\r\nConnection: close\r\naccept: text/plain\r\n\r\n")
    #expect(length > bytes.count)
    for host in ["localhost", "LOCALHOST:1", "[::1]:8080", "[::1]", "192.168.1.7:80", "127.0.0.1"] {
      #expect(status(head(first, ["Host: \(host)", authorized])) == 200, "\(host)")
    }
    #expect(status(head(first, ["Host: localhost", "Origin: http://localhost", authorized])) == 200)
    // The page's files are for whoever comes; a browser has no token yet.
    for path in ["/", "/page/page.js", "/openapi.json"] {
      guard case .file(let whole) = head("GET \(path) HTTP/1.1", ["Host: localhost"]),
        case .file(let alone) = head("HEAD \(path) HTTP/1.1", ["Host: localhost"])
      else { throw HarnessError("\(path) is not answered by the front") }
      #expect(whole.starts(with: alone) && whole.count > alone.count + 100, "\(path)")
      let text = String(decoding: alone, as: UTF8.self)
      #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n") && text.hasSuffix("\r\n\r\n"))
      #expect(text.contains("Content-Security-Policy: default-src 'none'; script-src 'self'"))
      #expect(text.contains("Content-Length: \(whole.count - alone.count)\r\n"))
    }
  }

  @Test("other hosts and sites, missing and wrong tokens, and whatever is no plain request are refused")
  func refused() {
    let get = "GET /v1/processes HTTP/1.1"
    for host in [
      "evil.example", "evil.example:8080", "localhost.evil.example", "", "127.0.0.1:99999", "127.0.0.1:", "[::1",
      "127.0.0.1@evil.example", "localhost:80:80", "[::1]x",
    ] {
      #expect(status(head(get, ["Host: \(host)", authorized])) == 421, "\(host)")
    }
    #expect(status(head(get, [authorized])) == 421)
    #expect(status(head(get, ["Host: localhost", "Host: localhost", authorized])) == 421)
    #expect(status(head("GET / HTTP/1.1", ["Host: evil.example"])) == 421)
    #expect(status(head(get, ["Host: localhost", "Origin: http://evil.example", authorized])) == 403)
    #expect(status(head(get, ["Host: localhost", "Origin: null", authorized])) == 403)
    for field in [
      "", "Authorization: Bearer", "Authorization: Bearer x", "\(authorized)x", "Authorization: Basic abc",
      String(authorized.dropLast()), authorized + "\r\n" + authorized,
    ] {
      #expect(status(head(get, ["Host: localhost"] + (field.isEmpty ? [] : [field]))) == 401, "\(field)")
    }
    #expect(status(head("POST / HTTP/1.1", ["Host: localhost"])) == 401)
    for target in ["/page/", "/page/../v1/processes", "//", "/%2e%2e/v1/processes", "/page/page.js/", "/v1/processes"] {
      #expect(status(head("GET \(target) HTTP/1.1", ["Host: localhost"])) == 401, "\(target)")
    }
    for first in [
      "GET", "GET /", "GET / HTTP/2", "GET  / HTTP/1.1", "GET / HTTP/1.1 x", "GET http://localhost/ HTTP/1.1",
      "GET x HTTP/1.1", "GET /\u{7F} HTTP/1.1", "GET /é HTTP/1.1",
    ] {
      #expect(status(head(first, ["Host: localhost", authorized])) == 400, "\(first)")
    }
    for method in ["PUT", "DELETE", "OPTIONS", "CONNECT", "get"] {
      #expect(status(head("\(method) / HTTP/1.1", ["Host: localhost", authorized])) == 404, "\(method)")
    }
    for field in ["X", ": x", "A b: c", " folded: x", "A: \u{1}", "A: x\ny: z", "A: x\ry: z"] {
      #expect(status(head(get, ["Host: localhost", authorized, field])) == 400, "\(field)")
    }
    let both = ["Content-Length: 5", "Transfer-Encoding: chunked"]
    #expect(status(head("POST /v1/processes/1/query HTTP/1.1", ["Host: localhost", authorized] + both)) == 400)
    #expect(status(head(get, ["Host: localhost", authorized] + Array(repeating: "A: b", count: 100))) == 400)
    #expect(status(head(get, ["Host: localhost", "A: \(String(repeating: "x", count: 17_000))"])) == 431)
    #expect(status(RequestHead(Array(repeating: 0x41, count: 20_000), token: Self.token)) == 431)
    #expect(RequestHead(Array("GET / HTTP/1.1\r\nHost: local".utf8), token: Self.token) == .partial)
    let end: [UInt8] = [13, 10, 13, 10]
    for bytes in [[], [0], end, Array(repeating: 0xFF, count: 100) + end] as [[UInt8]] {
      #expect(status(RequestHead(bytes, token: Self.token)) == (bytes.count < 4 ? 0 : 400))
    }
    let answer = String(decoding: head(get, ["Host: localhost"]).answer, as: UTF8.self)
    #expect(answer.hasPrefix("HTTP/1.1 401 Unauthorized\r\n") && answer.contains("WWW-Authenticate: Bearer\r\n"))
  }

  @Test("where there is no room, who has the token stays, then who had it; silence goes before a slow line")
  func crowd() {
    let (here, there, elsewhere) = (
      PeerAddress([127, 0, 0, 1]), PeerAddress([10, 0, 0, 7]), PeerAddress([10, 0, 0, 8])
    )
    func last(_ waiting: [Waiting], known: Set<PeerAddress> = []) -> Int? {
      Waiting.leastDeserving(waiting, known: known)
    }
    let slow = Waiting(hasToken: false, address: here, lastProgress: 50)
    let silent = (0..<10).map { Waiting(hasToken: false, address: here, lastProgress: 40 + Double($0)) }
    #expect(last([slow] + silent) == 1 && last([]) == nil && last([slow]) == 0)
    // A byte now and then is no better than the token, nor is being new.
    let asking = Waiting(hasToken: true, address: here, lastProgress: 1)
    #expect(last([asking, slow]) == 1 && last([asking] + silent) == 1)
    // Who opens many takes places from themselves, however lively.
    let many = (0..<5).map { Waiting(hasToken: false, address: there, lastProgress: 90 + Double($0)) }
    let alone = Waiting(hasToken: false, address: elsewhere, lastProgress: 2)
    #expect(last([alone] + many) == 1)
    #expect(last([alone] + many, known: [there]) == 0)
    #expect(last([asking, alone], known: [elsewhere]) == 1)
    let partial = "GET /v1/processes HTTP/1.1\r\nHost: localhost\r\n\(authorized)"
    #expect(!RequestHead.hasToken(Array(partial.utf8), Self.token))
    #expect(RequestHead.hasToken(Array("\(partial)\r\nAcc".utf8), Self.token))
    #expect(!RequestHead.hasToken(Array("\(partial)x\r\n".utf8), Self.token) && !RequestHead.hasToken([], Self.token))
  }

  /// Bytes that the server at `port` has not read from `client`; without a client, connections that it has not
  /// accepted. nil if there is no such connection.
  private func unread(at port: UInt16, from client: Int32?) -> Int? {
    var remote = "0000"
    if let client {
      var (address, size) = (sockaddr_in(), socklen_t(MemoryLayout<sockaddr_in>.size))
      _ = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(client, $0, &size) }
      }
      remote = String(format: "%04X", Int(UInt16(bigEndian: address.sin_port)))
    }
    let table = (try? String(contentsOfFile: "/proc/self/net/tcp", encoding: .utf8)) ?? ""
    for line in table.split(separator: "\n").dropFirst() {
      let words = line.split(whereSeparator: \.isWhitespace)
      if words.count > 4, words[1].hasSuffix(String(format: ":%04X", Int(port))), words[2].hasSuffix(":\(remote)") {
        return words[4].split(separator: ":").last.flatMap { Int($0, radix: 16) }
      }
    }
    return nil
  }

  @Test(
    "a slow request gets its answer while silent connections, ten times as many as there is room for, come and stay")
  func silence() throws {
    let (listener, port) = try ListenAddress("127.0.0.1:0").listen()
    let control = try makePipe()
    let thread = Thread {
      Front(listener: listener, token: Self.token) { () throws(Complaint) in
        throw Complaint(.shortage, what: "reached the server", advice: "")
      }.run(control: control.read) { false }
      close(listener)
      close(control.read)
    }
    thread.start()
    defer { close(control.write) }
    func connection() throws -> Int32 {
      let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
      var address = sockaddr_in()
      (address.sin_family, address.sin_port) = (sa_family_t(AF_INET), port.bigEndian)
      inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
      let result = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
      }
      try #require(result == 0)
      return descriptor
    }
    let words = "GET /v1/processes HTTP/1.1\r\nHost: localhost\r\n\(authorized)\r\nAccept: */*\r\n\r\n"
    let pieces = stride(from: 0, to: words.utf8.count, by: 16).map { Array(words.utf8.dropFirst($0).prefix(16)) }
    /// What the slow line is answered; nil if its head took longer than the front waits for any.
    func answer() throws -> String? {
      let slow = try connection()
      defer { close(slow) }
      let began = ContinuousClock.now
      var isLate: Bool { ContinuousClock.now - began > .seconds(9) }
      var silent: [Int32] = []
      defer { silent.forEach { close($0) } }
      for (index, piece) in pieces.enumerated() {
        guard send(slow, piece, piece.count, Int32(MSG_NOSIGNAL)) == piece.count else {
          try #require(isLate, "the slow connection was closed")
          return nil
        }
        // The slow line is slow: its pieces come one by one.
        // With the last one it may have answered and closed, so that there is no such connection. Before, one that the
        // kernel's list lacks is one that the list, as it changed while it was read, has passed over.
        try wait(for: "the front has read the piece") {
          unread(at: port, from: slow) ?? (index < pieces.count - 1 && !isLate ? 1 : 0) == 0
        }
        // Fewer than there is room for between two pieces: the slow one is never the one that is silent for longest.
        for _ in 0..<Front.connectionLimit - 4 { silent.append(try connection()) }
        // Those that say nothing are known before the slow line's next piece comes.
        try wait(for: "the front has accepted all") { unread(at: port, from: nil) == 0 }
      }
      #expect(silent.count >= 10 * Front.connectionLimit - 50)
      var bytes = [UInt8](repeating: 0, count: 4096)
      let count = recv(slow, &bytes, bytes.count, 0)
      guard count > 0 else {
        try #require(isLate, "the slow connection was closed")
        return nil
      }
      return String(decoding: bytes[..<count], as: UTF8.self)
    }
    // On a machine that is busy enough, no head of so many pieces comes in time.
    var said: String?
    for _ in 0..<10 where said == nil { said = try answer() }
    #expect(said?.contains("reached the server") == true, "\(said ?? "no head came in time")")
  }

  @Test("tokens are long, different, and compared as a whole; a file of one must be nobody else's")
  func tokens() throws {
    let (one, other) = (Token(), Token())
    #expect(one.text != other.text && one.text.count == 64)
    #expect(one.equals(one.text) && !one.equals(other.text) && !one.equals("") && !one.equals(one.text + "x"))
    #expect(Token(text: "a+/=b").inLink == "a%2B%2F%3Db")
    let directory = try TestDirectory()
    let file = directory.file("token")
    func write(_ text: String, mode: Int = 0o600) throws {
      try Data(text.utf8).write(to: URL(fileURLWithPath: file))
      try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file)
    }
    try write("\(other.text)\nmore\n")
    #expect(try Token(file: file).text == other.text)
    for (text, mode) in [
      (other.text, 0o644), (other.text, 0o620), ("short", 0o600), ("", 0o600), ("a b\(other.text)", 0o600),
    ] {
      try write(text, mode: mode)
      #expect(throws: Complaint.self) { try Token(file: file) }
    }
    #expect(throws: Complaint.self) { try Token(file: directory.path) }
    #expect(throws: Complaint.self) { try Token(file: directory.file("none")) }
  }

  @Test("addresses to listen at, and which of them only this machine reaches")
  func addresses() throws {
    for (text, host, port, isLoopback) in [
      ("127.0.0.1:80", "127.0.0.1", 80, true), ("8080", "127.0.0.1", 8080, true), ("[::1]:0", "::1", 0, true),
      ("localhost:65535", "127.0.0.1", 65535, true), ("0.0.0.0:1", "0.0.0.0", 1, false), ("[::]:1", "::", 1, false),
      ("127.9.9.9:1", "127.9.9.9", 1, true), ("10.0.0.1:1", "10.0.0.1", 1, false),
    ] as [(String, String, UInt16, Bool)] {
      let address = try ListenAddress(text)
      #expect(address.host == host && address.port == port && address.isLoopback == isLoopback, "\(text)")
    }
    for text in [
      "", ":", "x:1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:80", "1.2.3:4", "[1.2.3.4", "-1", "+80",
    ] {
      #expect(throws: Complaint.self, "\(text)") { try ListenAddress(text) }
    }
    let (listener, port) = try ListenAddress("127.0.0.1:0").listen()
    #expect(port > 0)
    #expect(throws: Complaint.self) { try ListenAddress("127.0.0.1:\(port)").listen() }
    close(listener)
  }
}
