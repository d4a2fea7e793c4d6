// SPDX-License-Identifier: Apache-2.0
// allocsd --listen: the front, a process of its own that takes connections over TCP and asks whoever comes for the
// token (Sources/Front). It has no rights: it runs as a user that no account has where root started the server, opens
// no file and connects to nothing. Each connection to the server comes from the broker, as one of the user who started
// it.

import Broker
import Confinement
import Front
import Glibc
import ServerProtocol
import SystemAccess

extension Allocsd {
  /// Listens where --listen says, and prints the link; nil without that option. For the broker.
  func front() throws(Complaint) -> (listener: Int32, token: String)? {
    guard let listen else { return nil }
    let entrance = try Entrance(listen: listen, tokenFile: tokenFile)
    let (listener, link) = try entrance.open()
    // The numbers below are those that a worker is started with.
    let number = fcntl(listener, F_DUPFD_CLOEXEC, 10)
    close(listener)
    guard number >= 0 else {
      throw Complaint(.shortage, what: "cannot listen at \(listen): \(systemWords(errno))", code: errno)
    }
    _ = writeAll(Array("\(link)\n".utf8), to: STDOUT_FILENO)
    return (number, entrance.token.text)
  }

  /// Serves as the front until the broker says `stop`, or ends.
  func runFront() throws -> Never {
    guard let channel = MessageChannel(inherited: 3) else {
      throw Complaint(.usage, what: "--role is for workers, which allocsd starts by itself", advice: "leave it out")
    }
    let listener: Int32 = 4
    Self.ignoreSignals()
    let broker = getppid()
    Self.name(role.rawValue)
    try become(Identity.mayBecome(.ofFront) ? .ofFront : .current())
    try endWithParent(broker)
    try closeAllDescriptors(but: [0, 1, 2, channel.descriptor, listener])
    var limits = Limits()
    limits.allowsAccepting = true
    try confine(limits)
    var link = FrontLink(channel)
    guard let token = link.token() else { _exit(0) }
    serve(listener, token, &link)
    _exit(0)
  }

  private func serve(_ listener: Int32, _ token: Token, _ link: inout FrontLink) {
    withUnsafeMutablePointer(to: &link) { link in
      Front(listener: listener, token: token) { () throws(Complaint) in try link.pointee.connect() }
        .run(control: link.pointee.descriptor) { link.pointee.takeMessages() }
    }
  }
}

/// The front's end of its channel.
private struct FrontLink: ~Copyable {
  private let channel: MessageChannel
  private var lastNumber: UInt64 = 0
  private var isStopping = false

  var descriptor: Int32 { channel.descriptor }

  init(_ channel: consuming MessageChannel) { self.channel = channel }

  /// The token, which is the first that comes; nil if the server stops.
  mutating func token() -> Token? {
    while case .message(let message, let descriptor)? = receive(waits: true) {
      if let descriptor { close(descriptor) }
      if message.kind == .token { return Token(text: String(decoding: message.text, as: UTF8.self)) }
    }
    return nil
  }

  /// A connection to the server.
  mutating func connect() throws(Complaint) -> Int32 {
    lastNumber &+= 1
    channel.send(Message(.askLink, number: lastNumber), waits: true)
    let end = seconds(of: CLOCK_MONOTONIC) + Self.patience  // bounded: seconds in floating point
    while hasMessage(until: end), case .message(let message, let descriptor)? = receive(waits: true) {
      if message.kind == .link, message.number == lastNumber {
        if let descriptor { return descriptor }
        throw Complaint(
          .shortage, what: String(decoding: message.text, as: UTF8.self), advice: "try again in a second")
      }
      if let descriptor { close(descriptor) }
    }
    throw Complaint(.shortage, what: "the server gives no connection at present", advice: "try again later")
  }

  /// Seconds that one connection keeps the others waiting.
  private static let patience = 5.0

  private func hasMessage(until end: Double) -> Bool {
    // bounded: seconds in floating point, no more than `patience`
    let left = max(0, min(Self.patience, end - seconds(of: CLOCK_MONOTONIC)))
    var request = pollfd(fd: channel.descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&request, 1, Int32(left * 1000)) > 0  // bounded: at most 5,000
  }

  /// Answers what the broker has sent. Returns false if the front is to end.
  mutating func takeMessages() -> Bool {
    while true {
      switch receive(waits: false) {
      case .message(_, let descriptor)?: if let descriptor { close(descriptor) }
      case .nothing?: return !isStopping
      default: return false
      }
    }
  }

  /// The next message, pings answered; nil when the server stops.
  private mutating func receive(waits: Bool) -> MessageChannel.Received? {
    guard !isStopping else { return nil }
    let received = channel.receive(takesDescriptor: true, waits: waits)
    switch received {
    case .nothing where !waits: return .nothing
    case .message(let message, _):
      if message.kind == .ping { channel.send(Message(.pong, number: message.number), waits: true) }
      if message.kind == .stop {
        isStopping = true
        return nil
      }
      return received
    default: return nil
    }
  }
}
