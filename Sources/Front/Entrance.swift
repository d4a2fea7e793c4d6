// SPDX-License-Identifier: Apache-2.0
// How the page comes to be served over TCP: what --listen and --token-file say, checked together, for `allocsctl page`
// and `allocsd --listen` alike.

import SystemAccess

/// An address, and the token that is asked for there.
package struct Entrance: Sendable {
  private let address: ListenAddress
  package let token: Token
  /// Whether the token is in a file, and not told in the link.
  package let hasTokenFile: Bool

  /// Throws `.usage` if the address is none, the file holds no token, or others could reach the address and would find
  /// a token that goes over the network in a link.
  package init(listen: String, tokenFile: String?) throws(Complaint) {
    address = try ListenAddress(listen)
    hasTokenFile = tokenFile != nil
    guard address.isLoopback || hasTokenFile else {
      throw Complaint(
        .usage, what: "\(address.host) can be reached from other machines",
        advice: "listen at 127.0.0.1 and forward the port by ssh, or name a --token-file")
    }
    token = try tokenFile.map { file throws(Complaint) in try Token(file: file) } ?? Token()
  }

  /// A socket that listens there, and the link for a browser. `fields`: more of what the page is to begin with.
  package func open(fields: [String] = []) throws(Complaint) -> (listener: Int32, link: String) {
    let (listener, port) = try address.listen()
    return (listener, address.link(port: port, token: hasTokenFile ? nil : token, fields: fields))
  }
}
