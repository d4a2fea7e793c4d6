// SPDX-License-Identifier: Apache-2.0
// The channel between the broker and one worker: whole messages over a pair of Unix sockets (SOCK_SEQPACKET).
//
// | message        | who sends it | number; value; text             | descriptor                     |
// |----------------|--------------|---------------------------------|--------------------------------|
// | connection     | broker       | 1 if it is one of root's        | the connection                 |
// | ping           | broker       | the ping's number               |                                |
// | stop           | broker       |                                 |                                |
// | look           | broker       |                                 |                                |
// | destination    | broker       | the request's; 1: ask again soon; text: an error | the open destination |
// | link           | broker       | the request's; text: an error   | a connection to another worker |
// | users          | broker       | the request's; text: user ids   |                                |
// | figures        | broker       | the request's; text: the values |                                |
// | open           | broker       | the request's; the process id   |                                |
// | pong           | worker       | the ping's number               |                                |
// | closed         | worker       | 1 if it was one of root's       |                                |
// | idle           | worker       | the connections that it was sent|                                |
// | askDestination | worker       | the request's; the process id; text: start time and inode        |
// | askLink        | gatherer, front | the request's; the user that the gatherer asks about         |
// | askUsers       | gatherer     | the request's                   |                                |
// | askFigures     | gatherer     | the request's                   |                                |
// | opened         | opener       | the request's; text: an error   | the open destination           |
// | token          | broker       | text: the front's token         |                                |
//
// What each side believes. A worker believes the broker. The broker takes each message of a worker for a statement
// of that worker's user about that user's own affairs, whatever it says: `closed` and `idle` concern connections of
// this worker, and are bounded by what the broker has sent; `askDestination` is granted for processes that the
// broker itself knows to be that user's. Messages of the gatherer are refused from any other worker. To the front
// (Sources/Front), `askLink` gives a connection of the user who started the server. Descriptors are taken from the
// opener alone. A message of no known form ends its sender.

import CBroker
import Glibc
import ServerProtocol
import SystemAccess

/// One message.
public struct Message: Equatable, Sendable {
  public enum Kind: UInt32, Sendable, CaseIterable {
    case connection = 1
    case ping, stop, look, destination, link, users, figures, open
    case pong, closed, idle, askDestination, askLink, askUsers, askFigures, opened
    case token
  }

  public var kind: Kind
  public var number: UInt64
  public var value: UInt64
  public var text: [UInt8]

  public init(_ kind: Kind, number: UInt64 = 0, value: UInt64 = 0, text: [UInt8] = []) {
    self.kind = kind
    self.number = number
    self.value = value
    self.text = text
  }

  /// Bytes of a message: at least, and at most.
  static let headSize = 20
  static let limit = 4096
  /// Bytes of text at most.
  public static let textLimit = Message.limit - Message.headSize
  static let wordLimit = textLimit / 8

  /// The message as it is sent. A text that is too long is cut.
  public var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Self.headSize &+ text.count)
    bytes += Self.bytes(kind.rawValue)
    bytes += Self.bytes(number)
    bytes += Self.bytes(value)
    bytes += text.prefix(Self.textLimit)
    return bytes
  }

  /// Nil if the bytes are no message.
  public init?(_ bytes: [UInt8]) {
    guard Self.headSize...Self.limit ~= bytes.count, let kind = Kind(rawValue: Self.word(bytes, 0)) else { return nil }
    self.init(kind, number: Self.word(bytes, 4), value: Self.word(bytes, 12), text: Array(bytes[Self.headSize...]))
  }

  /// A list of numbers as a text, and back; a rest of fewer than eight bytes is left out.
  public static func text(_ words: [UInt64]) -> [UInt8] { words.flatMap { bytes($0) } }
  public var words: [UInt64] { stride(from: 0, to: text.count & ~7, by: 8).map { Self.word(text, $0) } }

  private static func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
  }

  private static func word<Number: FixedWidthInteger>(_ bytes: [UInt8], _ offset: Int) -> Number {
    bytes[offset...].prefix(MemoryLayout<Number>.size).reversed().reduce(0) { $0 << 8 | Number(truncatingIfNeeded: $1) }
  }
}

/// Owns one end of a channel.
public struct MessageChannel: ~Copyable, Sendable {
  private let end: Descriptor

  public enum Received: Equatable {
    /// `descriptor` is the receiver's to close.
    case message(Message, descriptor: Int32?)
    case nothing
    /// The other end is closed.
    case ended
    /// What came is no message.
    case malformed
  }

  public var descriptor: Int32 { end.number }

  init(_ end: consuming Descriptor) { self.end = end }

  /// A worker's end, which it was started with; nil if the descriptor is none.
  public init?(inherited number: Int32) {
    var kind: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(number, SOL_SOCKET, SO_TYPE, &kind, &size) == 0, kind == Int32(SOCK_SEQPACKET.rawValue),
      fcntl(number, F_SETFD, FD_CLOEXEC) == 0
    else { return nil }
    end = Descriptor(adopting: number)
  }

  /// Both ends of a new channel, closed on exec; nil where descriptors are short.
  /// `stream`: as clients' connections are, without bounds of messages.
  static func pair(stream: Bool = false) -> (Int32, Int32)? {
    let kind = stream ? SOCK_STREAM : SOCK_SEQPACKET
    var ends: [Int32] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(kind.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else { return nil }
    if stream { for end in ends { PassedRights.refuse(on: end) } }
    return (ends[0], ends[1])
  }

  /// Sends, with a copy of the descriptor `passing`. Returns 0, or the `errno` value of the failure: EAGAIN where the
  /// receiver has taken none for long, and the sender doesn't wait. The broker never does; a worker does, as the broker
  /// takes what comes.
  @discardableResult
  public borrowing func send(_ message: Message, passing: Int32 = -1, waits: Bool = false) -> Int32 {
    let count = message.bytes.withUnsafeBytes {
      allocs_send_message(end.number, $0.baseAddress, $0.count, passing, waits ? 1 : 0)
    }
    return count < 0 ? Int32(clamping: 0 &- count) : 0
  }

  /// The next message. `takesDescriptor`: whether one may come with it; if not, it is closed.
  public borrowing func receive(takesDescriptor: Bool, waits: Bool) -> Received {
    var bytes = [UInt8](repeating: 0, count: Message.limit)
    var passed: Int32 = -1
    let count = bytes.withUnsafeMutableBytes { room in
      takesDescriptor
        ? allocs_receive_message(end.number, room.baseAddress, room.count, &passed, waits ? 1 : 0)
        : allocs_receive_message(end.number, room.baseAddress, room.count, nil, waits ? 1 : 0)
    }
    switch count {
    case 0: return .ended
    case ..<0:
      switch Int32(clamping: 0 &- count) {
      case EAGAIN: return .nothing
      case EMSGSIZE: return .malformed
      default: return .ended
      }
    default:
      guard let message = Message(Array(bytes[..<count])) else {
        if passed >= 0 { close(passed) }
        return .malformed
      }
      return .message(message, descriptor: passed >= 0 ? passed : nil)
    }
  }
}
