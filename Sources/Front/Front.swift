// SPDX-License-Identifier: Apache-2.0
// The page over TCP: takes connections, looks at the head of each one's request (RequestHead.swift), and passes its
// bytes to the server and back. Who has the token asks with the rights of one user, and with no others: of whoever runs
// `allocsctl page`, which connects to the server's socket as that user; or of whoever started `allocsd --listen`, whose
// front is a process without rights that gets its connections from the broker.
//
// - One thread, and one loop that waits for all descriptors. Nothing in it waits for one connection, but for a second
//   at most where the queue of the server's socket is full.
// - Connections, the bytes that wait on each, and the time for a head are bounded. Where there is no room, a connection
//   goes that has sent no whole head (Crowd.swift says which): who has no token can't keep out who has one.
// - A connection carries one request.

import Glibc
import ServerProtocol
import SystemAccess

/// Serves until a descriptor says that it is to end.
package final class Front {
  /// What of one connection has come and not gone on.
  private final class Link {
    let client: Int32
    /// -1 until the head has come.
    var server: Int32 = -1
    var toServer: [UInt8] = []
    var toClient: [UInt8] = []
    var serverEnded = false
    var hasAnswered = false
    /// When the connection is closed unless something happens before.
    var deadline: Double
    let address: PeerAddress
    /// When something came or went last.
    var lastProgress: Double
    /// Whether the head that has come so far has the token, and of how many bytes that was found out.
    private var hasToken = (is: false, ofBytes: 0)

    init(_ client: Int32, from address: PeerAddress, at now: Double, deadline: Double) {
      (self.client, self.address, lastProgress, self.deadline) = (client, address, now, deadline)
    }

    func waiting(_ token: Token) -> Waiting {
      if !hasToken.is, hasToken.ofBytes < toServer.count {
        hasToken = (RequestHead.hasToken(toServer, token), toServer.count)
      }
      return Waiting(hasToken: hasToken.is, address: address, lastProgress: lastProgress)
    }

    deinit {
      close(client)
      if server >= 0 { close(server) }
    }
  }

  static let connectionLimit = 48
  private static let bufferLimit = 256 << 10
  /// Addresses that are remembered as those of somebody who had the token.
  private static let knownLimit = 32
  /// Seconds for a head, and for a client that takes nothing while something waits for it.
  private static let (headPatience, stallPatience) = (10.0, 60.0)

  private let listener: Int32
  private let token: Token
  private let dial: () throws(Complaint) -> Int32
  private var links: [Link] = []
  private var known: Set<PeerAddress> = []
  /// Until when no connection is taken, as the system is short of something.
  private var acceptsAt = 0.0

  /// `listener`: a socket that listens, which the caller closes. `dial`: makes a connection to the server.
  package init(listener: Int32, token: Token, dial: @escaping () throws(Complaint) -> Int32) {
    (self.listener, self.token, self.dial) = (listener, token, dial)
  }

  /// Calls `goesOn` whenever there is something to read at `control`, or at the other end of it nobody; returns when
  /// that is false.
  package func run(control: Int32, while goesOn: () -> Bool) {
    while true {
      let isPaused = seconds(of: CLOCK_MONOTONIC) < acceptsAt
      var requests = [
        pollfd(fd: control, events: Int16(POLLIN), revents: 0),
        pollfd(fd: isPaused ? -1 : listener, events: Int16(POLLIN), revents: 0),
      ]
      for link in links {
        requests.append(request(link.client, canRead(link.toServer), !link.toClient.isEmpty))
        requests.append(request(link.server, canRead(link.toClient) && !link.serverEnded, !link.toServer.isEmpty))
      }
      poll(&requests, nfds_t(requests.count), isPaused ? 100 : links.isEmpty ? -1 : 1000)
      if requests[0].revents != 0, !goesOn() { return links.removeAll() }
      let now = seconds(of: CLOCK_MONOTONIC)
      var ended: Set<ObjectIdentifier> = []
      for (index, link) in links.enumerated() {
        // bounded: no more links than the limit
        let (client, server) = (requests[2 + 2 * index].revents, requests[3 + 2 * index].revents)
        if !handle(link, client, server, now) || now >= link.deadline { ended.insert(ObjectIdentifier(link)) }
      }
      if !ended.isEmpty { links.removeAll { ended.contains(ObjectIdentifier($0)) } }
      if requests[1].revents != 0 { accept(at: now) }
    }
  }

  private func canRead(_ waiting: [UInt8]) -> Bool { waiting.count < Self.bufferLimit }

  private func request(_ descriptor: Int32, _ reads: Bool, _ writes: Bool) -> pollfd {
    let events = (reads ? Int16(POLLIN) : 0) | (writes ? Int16(POLLOUT) : 0)
    // A connection of which nothing is wanted at present would wake the loop again and again by its end.
    return pollfd(fd: events == 0 ? -1 : descriptor, events: events, revents: 0)
  }

  private func accept(at now: Double) {
    for _ in 0..<16 {
      // Room for either family, whose port is at the same place.
      var address = sockaddr_in6()
      var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
      let client = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.accept(listener, $0, &size) }
      }
      guard client >= 0 else {
        // Out of descriptors or memory: a connection that waits would wake the loop without end.
        // bounded: seconds in floating point
        if ![EAGAIN, EINTR, ECONNABORTED].contains(errno) { acceptsAt = now + 0.1 }
        return
      }
      prepare(client)
      if links.count >= Self.connectionLimit {
        let waiting = links.indices.filter { links[$0].server < 0 }
        guard let least = Waiting.leastDeserving(waiting.map { links[$0].waiting(token) }, known: known) else {
          close(client)
          continue
        }
        links.remove(at: waiting[least])
      }
      // bounded: seconds in floating point
      links.append(Link(client, from: PeerAddress(address), at: now, deadline: now + Self.headPatience))
    }
  }

  private func prepare(_ descriptor: Int32) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  }

  /// Returns whether the connection goes on.
  private func handle(_ link: Link, _ client: Int16, _ server: Int16, _ now: Double) -> Bool {
    if client & Int16(POLLIN | POLLHUP | POLLERR) != 0 {
      var hasGone = false
      let before = link.toServer.count
      // Browsers end nothing but the whole connection: who has sent the end has gone, and the question ends.
      guard receive(link.client, &link.toServer, &hasGone), !hasGone else { return false }
      if link.toServer.count > before { link.lastProgress = now }
      if link.server < 0, !link.serverEnded, !begin(link, now) { return false }
    }
    if server & Int16(POLLIN | POLLHUP | POLLERR) != 0 {
      let before = link.toClient.count
      // What has come goes on, also where the server has broken off.
      if !receive(link.server, &link.toClient, &link.serverEnded) { link.serverEnded = true }
      if link.toClient.count > before { link.hasAnswered = true }
      if link.serverEnded, !link.hasAnswered {
        link.toClient =
          Refusal(
            status: 503, what: "the server takes no request at present", advice: "try again in a second"
          ).bytes
      }
    }
    let before = link.toClient.count
    guard send(&link.toClient, to: link.client) else { return false }
    if link.toClient.count < before { link.lastProgress = now }
    if link.server >= 0 {
      // The server may have answered before it has taken all, and closed: its answer still goes out.
      if !send(&link.toServer, to: link.server) { link.toServer = [] }
      if link.toClient.isEmpty {
        link.deadline = .infinity
      } else if link.toClient.count < before || link.deadline == .infinity {
        link.deadline = now + Self.stallPatience  // bounded: seconds in floating point
      }
    }
    return !(link.serverEnded && link.toClient.isEmpty)
  }

  /// Looks at the head of a request, once it is whole.
  private func begin(_ link: Link, _ now: Double) -> Bool {
    let head = RequestHead(link.toServer, token: token)
    switch head {
    case .partial: return true
    case .refused: return refuse(link, head.answer, now)
    case .file(let answer):
      (link.toClient, link.toServer, link.serverEnded) = (answer, [], true)
      return true
    case .accepted(let bytes, let length):
      if known.count >= Self.knownLimit { known.removeAll() }
      known.insert(link.address)
      do throws(Complaint) {
        link.server = try dial()
        prepare(link.server)
        link.toServer.replaceSubrange(..<length, with: bytes)
        link.deadline = .infinity
        return true
      } catch {
        return refuse(link, Refusal(status: 503, what: error.what, advice: error.advice).bytes, now)
      }
    }
  }

  /// Sends the whole answer as far as there is room, which there is: the connection is new.
  private func refuse(_ link: Link, _ answer: [UInt8], _ now: Double) -> Bool {
    link.toClient = answer
    _ = send(&link.toClient, to: link.client)
    // A close with bytes unread would take the answer from its reader.
    shutdown(link.client, Int32(SHUT_WR))
    var rest: [UInt8] = []
    var ended = false
    for _ in 0..<16 where receive(link.client, &rest, &ended) && !ended { rest = [] }
    return false
  }

  /// Takes what has come. Returns false if the connection is broken.
  private func receive(_ descriptor: Int32, _ bytes: inout [UInt8], _ ended: inout Bool) -> Bool {
    var piece = [UInt8](repeating: 0, count: 64 << 10)
    let count = recv(descriptor, &piece, piece.count, Int32(MSG_DONTWAIT))
    guard count >= 0 else { return errno == EAGAIN || errno == EINTR }
    if count == 0 { ended = true }
    bytes += piece[..<count]
    return true
  }

  /// Sends what there is room for. Returns false if the connection is broken.
  private func send(_ bytes: inout [UInt8], to descriptor: Int32) -> Bool {
    guard !bytes.isEmpty, descriptor >= 0 else { return true }
    let count = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
    guard count >= 0 else { return errno == EAGAIN || errno == EINTR }
    bytes.removeSubrange(..<min(count, bytes.count))
    return true
  }
}
