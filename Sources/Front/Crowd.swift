// SPDX-License-Identifier: Apache-2.0
// Which connection goes when there are too many. None goes whose request has been handed on. Of the others:
//
// - those stay longest whose head, though not whole yet, has the token; then those from an address that has asked with
//   it before;
// - of the rest, the address goes first that has most of them: who opens a hundred takes places from themselves;
// - of these, the one from which nothing has come, and which has taken nothing, for longest. So silence loses to a slow
//   line, and time alone is no reason; a head must be whole within its time anyway.

import Glibc

/// What counts of a connection whose request has not been handed on.
struct Waiting {
  /// Whether its head has the token already.
  var hasToken: Bool
  /// The address at its other end (`PeerAddress`).
  var address: PeerAddress
  /// When something came or went last, in seconds.
  var lastProgress: Double

  /// The place of the connection that goes; nil if there is none.
  static func leastDeserving(_ waiting: [Waiting], known: Set<PeerAddress>) -> Int? {
    var counts: [PeerAddress: Int] = [:]
    for each in waiting { counts[each.address, default: 0] += 1 }
    return waiting.indices.min { a, b in
      let (left, right) = (waiting[a], waiting[b])
      if left.hasToken != right.hasToken { return right.hasToken }
      let areKnown = (known.contains(left.address), known.contains(right.address))
      if areKnown.0 != areKnown.1 { return areKnown.1 }
      let (mine, others) = (counts[left.address] ?? 0, counts[right.address] ?? 0)
      return mine != others ? mine > others : left.lastProgress < right.lastProgress
    }
  }
}

/// Who is at the other end: an address of IPv4; of IPv6 the network, as one machine has all addresses of that.
struct PeerAddress: Hashable {
  private let bytes: [UInt8]

  /// From what `accept` fills in.
  init(_ address: sockaddr_in6) {
    let isSix = Int32(clamping: address.sin6_family) == AF_INET6
    bytes = withUnsafeBytes(of: address) { raw in
      guard isSix else { return Array(raw[4..<8]) }
      let whole = Array(raw[8..<24])
      // An address of IPv4, written as one of IPv6.
      let isFour = whole[..<10].allSatisfy { $0 == 0 } && whole[10..<12].allSatisfy { $0 == 0xFF }
      return isFour ? Array(whole[12...]) : Array(whole[..<8])
    }
  }

  init(_ bytes: [UInt8]) { self.bytes = bytes }
}
