// SPDX-License-Identifier: Apache-2.0
// One connection to a server on a Unix socket, with as little of HTTP/1.1 as measuring it takes: a request, and the
// answer to it, whose body has a Content-Length or is chunked. Blocking; not for use by several threads.

import Foundation
import Glibc

final class HTTPConnection {
  private let socket: Int32
  private var received: [UInt8] = []
  private var position = 0

  init(path: String) throws {
    socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    guard socket >= 0 else { throw BenchmarkError("no socket could be made: \(String(cString: strerror(errno)))") }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
      close(socket)
      throw BenchmarkError("\(path) is too long for a socket's name")
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(socket, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard connected == 0 else {
      let why = String(cString: strerror(errno))
      close(socket)
      throw BenchmarkError("no connection to \(path): \(why)")
    }
  }

  deinit { close(socket) }

  /// The bytes of a request.
  static func request(_ method: String, _ target: String, body: String = "") -> [UInt8] {
    var text = "\(method) \(target) HTTP/1.1\r\nHost: allocs\r\nAccept: application/json\r\n"
    if method == "POST" { text += "Content-Type: text/plain\r\nContent-Length: \(body.utf8.count)\r\n" }
    return Array((text + "\r\n" + body).utf8)
  }

  /// Sends a request and returns the answer's body; fails unless its status is 200.
  func send(_ request: [UInt8]) throws -> [UInt8] {
    try write(request)
    return try readAnswer()
  }

  /// Like `send`, with the sending in a thread of its own: an answer that begins before a large request was read to its
  /// end would otherwise block both sides.
  func sendLarge(_ request: [UInt8]) throws -> [UInt8] {
    let socket = socket
    let sender = Thread { _ = Self.write(request, to: socket) }
    sender.start()
    return try readAnswer()
  }

  private func write(_ bytes: [UInt8]) throws {
    guard Self.write(bytes, to: socket) else {
      throw BenchmarkError("the server took no request: \(String(cString: strerror(errno)))")
    }
  }

  private static func write(_ bytes: [UInt8], to socket: Int32) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes { Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { return false }
      sent += count
    }
    return true
  }

  // MARK: reading

  private func readAnswer() throws -> [UInt8] {
    let status = try line()
    var length: Int?
    var isChunked = false
    while case let header = try line().lowercased(), !header.isEmpty {
      if header.hasPrefix("content-length:") {
        length = Int(header.dropFirst("content-length:".count).trimmingCharacters(in: .whitespaces))
      }
      if header.hasPrefix("transfer-encoding:"), header.hasSuffix("chunked") { isChunked = true }
    }
    var body: [UInt8] = []
    if isChunked {
      while let size = Int(try line(), radix: 16), size > 0 {
        body += try bytes(size)
        _ = try line()
      }
      _ = try line()
    } else {
      body = Array(try bytes(length ?? 0))
    }
    guard status.hasPrefix("HTTP/1.1 200") else {
      throw BenchmarkError("the server answered '\(status)': \(String(decoding: body.prefix(200), as: UTF8.self))")
    }
    return body
  }

  private func line() throws -> String {
    var scanned = position
    while true {
      if let end = received[scanned...].firstIndex(of: UInt8(ascii: "\n")) {
        let line = received[position..<(end > position && received[end - 1] == UInt8(ascii: "\r") ? end - 1 : end)]
        position = end + 1
        return String(decoding: line, as: UTF8.self)
      }
      scanned = received.count - position  // what is left moves to the front
      try receive()
    }
  }

  private func bytes(_ count: Int) throws -> ArraySlice<UInt8> {
    while received.count - position < count { try receive() }
    defer { position += count }
    return received[position..<position + count]
  }

  private func receive() throws {
    received.removeFirst(position)
    position = 0
    let room = 1 << 18
    let old = received.count
    received.append(contentsOf: repeatElement(0, count: room))
    let count = received[old...].withUnsafeMutableBytes { recv(socket, $0.baseAddress, $0.count, 0) }
    received.removeLast(room - max(count, 0))
    guard count > 0 else { throw BenchmarkError("the server closed the connection within an answer") }
  }
}
