// SPDX-License-Identifier: Apache-2.0
// Where the page is served over TCP: an address and a port.

import Glibc
import SystemAccess

/// An address of this machine, and a port.
package struct ListenAddress: Equatable, Sendable {
  /// `127.0.0.1`, `::1`: as inet_pton takes it.
  package var host: String
  /// 0: a free one.
  package var port: UInt16

  /// From `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, or the port alone.
  package init(_ text: String) throws(Complaint) {
    let refusal = Complaint(
      .usage, what: "\"\(text.prefix(80))\" is no address to listen at",
      advice: "give an address and a port: 127.0.0.1:8080, [::1]:8080, or a port of 127.0.0.1 alone")
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard let last = parts.last, !last.isEmpty, last.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }),
      let port = UInt16(last, radix: 10)
    else { throw refusal }
    self.port = port
    guard parts.count > 1 else {
      host = "127.0.0.1"
      return
    }
    var name = parts.dropLast().joined(separator: ":")
    if name.hasPrefix("["), name.hasSuffix("]") {
      name = String(name.dropFirst().dropLast())
    } else if name.contains(":") {
      throw refusal
    }
    if name.lowercased() == "localhost" { name = "127.0.0.1" }
    guard Self.isAddress(name) else { throw refusal }
    host = name
  }

  /// The page's address in a browser, where the address has got `port`. `token`: one that the link tells; nil: none.
  /// `fields`: more of what the page is to begin with.
  package func link(port: UInt16, token: Token?, fields: [String] = []) -> String {
    let words = (token.map { ["token=\($0.inLink)"] } ?? []) + fields
    let name = host.contains(":") ? "[\(host)]" : host
    return "http://\(name):\(port)/" + (words.isEmpty ? "" : "#\(words.joined(separator: "&"))")
  }

  /// Whether only this machine reaches it.
  package var isLoopback: Bool {
    var four = in_addr()
    if inet_pton(AF_INET, host, &four) == 1 { return UInt32(bigEndian: four.s_addr) >> 24 == 127 }
    var six = in6_addr()
    guard inet_pton(AF_INET6, host, &six) == 1 else { return false }
    let bytes = withUnsafeBytes(of: six) { Array($0) }
    return bytes.dropLast().allSatisfy { $0 == 0 } && bytes.last == 1
  }

  /// Whether the text is an address of IPv4 or IPv6.
  static func isAddress(_ text: String) -> Bool {
    var four = in_addr()
    var six = in6_addr()
    return !text.utf8.contains(0) && (inet_pton(AF_INET, text, &four) == 1 || inet_pton(AF_INET6, text, &six) == 1)
  }

  /// A socket that listens there, and the port that it has. Never waits in `accept`.
  package func listen() throws(Complaint) -> (descriptor: Int32, port: UInt16) {
    let isSix = host.contains(":")
    func failure(_ code: Int32) -> Complaint {
      Complaint(
        .obstacle, what: "cannot listen at \(isSix ? "[\(host)]" : host):\(port): \(systemWords(code))",
        advice: code == EADDRINUSE ? "name another port" : "name an address of this machine",
        code: code)
    }
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(isSix ? AF_INET6 : AF_INET, kind, 0)
    guard descriptor >= 0 else { throw failure(errno) }
    var on: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
    let result =
      isSix
      ? bind(descriptor, sockaddr_in6.self) { address in
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        inet_pton(AF_INET6, host, &address.sin6_addr)
      }
      : bind(descriptor, sockaddr_in.self) { address in
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        inet_pton(AF_INET, host, &address.sin_addr)
      }
    guard result == 0, Glibc.listen(descriptor, 64) == 0 else {
      let code = errno
      close(descriptor)
      throw failure(code)
    }
    // Both families have the port at the same place.
    var address = sockaddr_in6()
    var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
    let known = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
    }
    return (descriptor, known == 0 ? UInt16(bigEndian: address.sin6_port) : port)
  }

  private func bind<Address>(_ descriptor: Int32, _: Address.Type, _ fill: (inout Address) -> Void) -> Int32 {
    withUnsafeTemporaryAllocation(of: Address.self, capacity: 1) { room in
      guard let start = room.baseAddress else { return -1 }
      memset(start, 0, MemoryLayout<Address>.size)
      fill(&start.pointee)
      return start.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<Address>.size))
      }
    }
  }
}
