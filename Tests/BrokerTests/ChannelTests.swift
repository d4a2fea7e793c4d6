// SPDX-License-Identifier: Apache-2.0
// The messages between broker and workers: whole ones arrive whole, and all else is no message.

import Glibc
import SystemAccess
import TestSupport
import Testing

@testable import Broker

@Suite("the channel", .bounded)
struct ChannelTests {
  private struct Pair: ~Copyable {
    let near: MessageChannel
    let far: MessageChannel

    init() throws {
      let ends = try #require(MessageChannel.pair())
      near = MessageChannel(Descriptor(adopting: ends.0))
      far = MessageChannel(Descriptor(adopting: ends.1))
    }
  }

  @Test("a message comes as it was sent, with its descriptor, and lists of numbers with it")
  func roundTrip() throws {
    let pair = try Pair()
    let words: [UInt64] = [0, 1, .max, 1 << 40]
    let message = Message(.users, number: .max, value: 7, text: Message.text(words))
    #expect(pair.near.send(message, passing: STDIN_FILENO) == 0)
    guard case .message(let received, let descriptor?) = pair.far.receive(takesDescriptor: true, waits: true) else {
      Issue.record("no message with a descriptor")
      return
    }
    #expect(received == message && received.words == words)
    #expect(fcntl(descriptor, F_GETFD) == FD_CLOEXEC)
    close(descriptor)
    #expect(pair.far.receive(takesDescriptor: true, waits: false) == .nothing)
  }

  @Test("a descriptor that isn't asked for is closed, and none is left over")
  func unwanted() throws {
    let pair = try Pair()
    let pipe = try makePipe()
    defer { close(pipe.read) }
    for _ in 0..<100 {
      #expect(pair.near.send(Message(.closed), passing: pipe.write) == 0)
      #expect(pair.far.receive(takesDescriptor: false, waits: true) == .message(Message(.closed), descriptor: nil))
    }
    close(pipe.write)
    // The pipe's reader is told once nobody can write: a copy that was left over would keep it from being told for
    // good, and a child that another test has just started, until it calls exec.
    try wait(for: "no writer of the pipe") {
      var poll = pollfd(fd: pipe.read, events: Int16(POLLIN), revents: 0)
      return Glibc.poll(&poll, 1, 0) == 1 && Int32(poll.revents) & Int32(POLLHUP) != 0
    }
  }

  @Test("what is no message is said to be none: too short, too long, of no kind")
  func malformed() throws {
    let pair = try Pair()
    func sendBytes(_ bytes: [UInt8]) { #expect(send(pair.near.descriptor, bytes, bytes.count, 0) == bytes.count) }
    for count in [1, Message.headSize - 1, Message.limit + 1, 3 * Message.limit] {
      sendBytes([UInt8](repeating: 1, count: count))
      #expect(pair.far.receive(takesDescriptor: true, waits: true) == .malformed, "\(count)")
    }
    for kind: UInt8 in [0, UInt8(Message.Kind.allCases.count + 1), 255] {
      sendBytes([kind] + [UInt8](repeating: 0, count: Message.headSize - 1))
      #expect(pair.far.receive(takesDescriptor: false, waits: true) == .malformed, "\(kind)")
    }
    sendBytes(Message(.pong, number: 3).bytes)
    #expect(
      pair.far.receive(takesDescriptor: false, waits: true) == .message(Message(.pong, number: 3), descriptor: nil))
  }

  @Test("a receiver that takes nothing never makes the sender wait")
  func full() throws {
    let pair = try Pair()
    var sent = 0
    while pair.near.send(Message(.connection), passing: STDIN_FILENO) == 0, sent < 100_000 { sent += 1 }
    #expect(sent > 10 && sent < 100_000)
    #expect(pair.near.send(Message(.ping)) == EAGAIN)
  }

  @Test("an end that is closed is said")
  func ended() throws {
    let ends = try #require(MessageChannel.pair())
    let near = MessageChannel(Descriptor(adopting: ends.0))
    close(ends.1)
    #expect(near.receive(takesDescriptor: false, waits: true) == .ended)
    #expect(near.send(Message(.ping)) == EPIPE)
  }
}
