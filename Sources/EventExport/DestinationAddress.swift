// SPDX-License-Identifier: Apache-2.0
// Destinations by name, as a person writes them on a command line, and the way to reach them.

import ByteText
import Glibc
import SystemAccess

/// A destination that is not open yet.
public enum DestinationAddress: Sendable, Equatable, CustomStringConvertible {
  case file(path: String)
  case unixSocket(path: String)
  case tcp(host: String, port: String)

  /// `unix:PATH`, `tcp:HOST:PORT` (an IPv6 address in brackets), `file:PATH`, or a path.
  public init(_ text: String) throws(Complaint) {
    func rest(_ prefix: String) -> String? { text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : nil }
    if let path = rest("unix:") {
      self = .unixSocket(path: path)
    } else if let place = rest("tcp:") {
      guard let colon = place.lastIndex(of: ":") else {
        throw Complaint(.usage, what: "\"\(text)\" names no port", advice: "write tcp:HOST:PORT")
      }
      var host = place[..<colon]
      if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
      let port = place[place.index(after: colon)...]
      guard !host.isEmpty, let number = UInt16(port), number > 0 else {
        throw Complaint(
          .usage, what: "\"\(text)\" names no host and port", advice: "write tcp:HOST:PORT, with a port from 1 to 65535"
        )
      }
      self = .tcp(host: String(host), port: String(number))
    } else {
      self = .file(path: rest("file:") ?? text)
    }
    switch self {
    case .file(let path), .unixSocket(let path):
      guard !path.isEmpty, !path.utf8.contains(0) else {
        throw Complaint(.usage, what: "\"\(text)\" names no file", advice: "write a path")
      }
    case .tcp: break
    }
  }

  public var description: String {
    switch self {
    case .file(let path): path
    case .unixSocket(let path): "unix:\(path)"
    case .tcp(let host, let port): host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
    }
  }

  /// Creates the file, which must not exist, or connects. May wait for the network.
  public func open() throws(Complaint) -> Destination {
    switch self {
    case .file(let path): return try Destination(file: path)
    case .unixSocket(let path): return try Destination(adopting: Self.connectUnix(path), name: description)
    case .tcp(let host, let port): return try Destination(adopting: connectTCP(host, port), name: description)
    }
  }

  private static func connectUnix(_ path: String) throws(Complaint) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    let bytes = path.originalBytes
    guard bytes.count < capacity else {
      throw Complaint(
        .obstacle, what: "cannot connect to unix:\(path): a socket's name has at most \(capacity &- 1) bytes",
        advice: "choose a shorter path", code: ENAMETOOLONG)
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    let result =
      descriptor < 0
      ? -1
      : withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
    guard result == 0 else {
      let code = errno
      if descriptor >= 0 { close(descriptor) }
      throw Complaint(
        .obstacle, what: "cannot connect to unix:\(path): \(systemWords(code))",
        advice: "start the program that listens there", code: code)
    }
    return descriptor
  }

  private func connectTCP(_ host: String, _ port: String) throws(Complaint) -> Int32 {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let failure = getaddrinfo(host, port, &hints, &list)
    guard failure == 0, let list else {
      throw Complaint(
        .obstacle, what: "cannot find \(host): \(String(cString: gai_strerror(failure)))", advice: "check the name")
    }
    defer { freeaddrinfo(list) }
    var code = ECONNREFUSED
    var entry: UnsafeMutablePointer<addrinfo>? = list
    while let address = entry {
      let info = address.pointee
      let descriptor = socket(info.ai_family, info.ai_socktype | Int32(SOCK_CLOEXEC.rawValue), info.ai_protocol)
      if descriptor >= 0 {
        if connect(descriptor, info.ai_addr, info.ai_addrlen) == 0 { return descriptor }
        code = errno
        close(descriptor)
      } else {
        code = errno
      }
      entry = info.ai_next
    }
    throw Complaint(
      .obstacle, what: "cannot connect to \(self): \(systemWords(code))",
      advice: "start the program that listens there", code: code)
  }
}
