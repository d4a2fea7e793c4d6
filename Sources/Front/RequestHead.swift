// SPDX-License-Identifier: Apache-2.0
// The head of a request that came over TCP: whether it may go to the server, and what is handed on of it.
//
// Only one form is let through: lines that end with CR LF, one space between the parts of the first, a name and a colon
// in each other. Of a request the head is written anew, with `Connection: close`: a connection carries one request, so
// nothing behind it can be taken for another by one side and not by the other.
//
// Three things are asked for. `Host` is an address or localhost, and not a name that somebody's name server may lead
// here (DNS rebinding). An `Origin`, which browsers send for other sites' pages, is the same host. And the token, but
// for the page's own files, which a browser loads before the page can send anything.

import Page
import ServerProtocol

/// What becomes of the bytes that a connection began with.
package enum RequestHead: Equatable {
  /// More is to come.
  case partial
  case refused(status: Int, what: String, advice: String)
  /// The head for the server, and the number of bytes that it stands for.
  case accepted(head: [UInt8], length: Int)
  /// A file of the page, which everybody gets, from the front itself: who has no token costs the server nothing.
  case file(answer: [UInt8])

  package static let sizeLimit = 16 << 10
  private static let fieldLimit = 64

  package init(_ bytes: [UInt8], token: Token) {
    self = Self.read(bytes, token)
  }

  private static func read(_ bytes: [UInt8], _ token: Token) -> RequestHead {
    let end = Array("\r\n\r\n".utf8)
    guard let separator = bytes.firstRange(of: end) else {
      guard bytes.count < sizeLimit else { return fault(431) }
      return .partial
    }
    guard separator.upperBound <= sizeLimit else { return fault(431) }
    var lines = bytes[..<separator.lowerBound].split(separator: 0x0D, omittingEmptySubsequences: false)
    for index in lines.indices.dropFirst() {
      guard lines[index].first == 0x0A else { return fault(400) }
      lines[index] = lines[index].dropFirst()
    }
    // Visible characters, blanks and tabs: the rest is no part of a head.
    guard lines.allSatisfy({ $0.allSatisfy { $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 } }), lines.count <= fieldLimit
    else { return fault(400) }
    let words = lines[0].split(separator: 0x20, omittingEmptySubsequences: false)
      .map { String(decoding: $0, as: UTF8.self) }
    guard words.count == 3, words[1].hasPrefix("/"), !words[1].utf8.contains(where: { $0 <= 0x20 || $0 >= 0x7F }),
      words[2] == "HTTP/1.1" || words[2] == "HTTP/1.0"
    else { return fault(400) }
    guard ["GET", "HEAD", "POST"].contains(words[0]) else { return fault(404) }
    guard let fields = Fields(lines.dropFirst()) else { return fault(400) }
    if let refusal = check(words[0], words[1], fields, token) { return refusal }
    var head = "\(words[0]) \(words[1]) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    for (name, value) in fields.all where passed.contains(name) { head += "\(name): \(value)\r\n" }
    return .accepted(head: Array("\(head)\r\n".utf8), length: separator.upperBound)
  }

  /// The fields that the server gets as they came.
  private static let passed: Set<String> = ["accept", "content-length", "content-type", "expect", "transfer-encoding"]

  /// Whether the lines that have come of a head have the token among them.
  static func hasToken(_ bytes: [UInt8], _ token: Token) -> Bool {
    guard let end = bytes.lastIndex(of: 0x0A) else { return false }
    let lines = bytes[..<end].split(separator: 0x0A).dropFirst().map { $0.last == 0x0D ? $0.dropLast() : $0 }
    guard lines.count <= fieldLimit, let fields = Fields(lines) else { return false }
    return isAuthorized(fields, token)
  }

  private static func isAuthorized(_ fields: Fields, _ token: Token) -> Bool {
    guard let authorization = fields.only("authorization"), let space = authorization.firstIndex(of: " ") else {
      return false
    }
    return authorization[..<space].lowercased() == "bearer"
      && token.equals(String(authorization[authorization.index(after: space)...]))
  }

  private static func check(_ method: String, _ target: String, _ fields: Fields, _ token: Token) -> RequestHead? {
    guard let host = fields.only("host"), isAddress(host) else {
      return .refused(
        status: 421, what: "the Host of the request is no address",
        advice: "ask for 127.0.0.1 or localhost, not for another name")
    }
    let origins = fields.values("origin")
    guard origins.allSatisfy({ $0.lowercased() == "http://\(host.lowercased())" }) else {
      return .refused(
        status: 403, what: "the request comes from a page of another site", advice: "open the page of this server")
    }
    guard fields.values("content-length").count &+ fields.values("transfer-encoding").count <= 1 else {
      return fault(400)
    }
    let path = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)[0]
    if method != "POST", let file = PageFile.all.first(where: { $0.path == path }) {
      return .file(answer: answer(file, hasBody: method == "GET"))
    }
    guard isAuthorized(fields, token) else {
      return .refused(
        status: 401, what: "the request has no token, or another one",
        advice: "open the link that was printed when this was started, or send Authorization: Bearer TOKEN")
    }
    return nil
  }

  private static func answer(_ file: PageFile, hasBody: Bool) -> [UInt8] {
    var head = "HTTP/1.1 200 OK\r\n"
    for (name, value) in file.fields { head += "\(name): \(value)\r\n" }
    head += "Content-Length: \(file.bytes.count)\r\nConnection: close\r\n\r\n"
    return Array(head.utf8) + (hasBody ? file.bytes : [])  // bounded: a file of the program's own
  }

  /// Whether a Host is an address, or localhost, with a port or without.
  private static func isAddress(_ host: String) -> Bool {
    let name: Substring
    if host.hasPrefix("["), let end = host.firstIndex(of: "]") {
      let rest = host[host.index(after: end)...]
      guard rest.isEmpty || rest.first == ":" && isPort(rest.dropFirst()) else { return false }
      return ListenAddress.isAddress(String(host[..<end].dropFirst()))
    }
    if let colon = host.firstIndex(of: ":") {
      guard isPort(host[host.index(after: colon)...]) else { return false }
      name = host[..<colon]
    } else {
      name = host[...]
    }
    return name.lowercased() == "localhost" || ListenAddress.isAddress(String(name))
  }

  private static func isPort(_ text: Substring) -> Bool {
    text.utf8.count <= 5 && text.utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } && UInt16(text, radix: 10) != nil
  }

  private static func fault(_ status: Int) -> RequestHead {
    switch status {
    case 431:
      .refused(
        status: 431, what: "the head of the request is longer than \(sizeLimit) bytes", advice: "send less in it")
    case 404: .refused(status: 404, what: "there is no resource for this method", advice: "use GET, HEAD or POST")
    default: .refused(status: 400, what: "the request is not HTTP/1.1", advice: "see docs/http.md")
    }
  }

  /// The fields of a head, names in lower case.
  private struct Fields {
    private(set) var all: [(name: String, value: String)] = []

    init?(_ lines: some Sequence<ArraySlice<UInt8>>) {
      for line in lines {
        guard let colon = line.firstIndex(of: 0x3A), colon > line.startIndex,
          line[..<colon].allSatisfy({ Self.isOfName($0) })
        else { return nil }
        let blank: (UInt8) -> Bool = { $0 == 0x20 || $0 == 0x09 }
        var value = line[line.index(after: colon)...].drop(while: blank)
        while let last = value.last, blank(last) { value = value.dropLast() }
        all.append(
          (String(decoding: line[..<colon], as: UTF8.self).lowercased(), String(decoding: value, as: UTF8.self)))
      }
    }

    private static func isOfName(_ byte: UInt8) -> Bool {
      switch byte {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
      default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
      }
    }

    func values(_ name: String) -> [String] { all.filter { $0.name == name }.map(\.value) }

    /// The value of a field that is there once.
    func only(_ name: String) -> String? {
      let values = values(name)
      return values.count == 1 ? values[0] : nil
    }
  }

  /// The whole answer to a request that was refused; empty for others.
  package var answer: [UInt8] {
    guard case .refused(let status, let what, let advice) = self else { return [] }
    return Refusal(status: status, what: what, advice: advice).bytes
  }
}
