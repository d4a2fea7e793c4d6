// SPDX-License-Identifier: Apache-2.0
// A worker's end of its channel (Broker/Channel.swift). One thread takes the broker's messages; any thread may send and
// ask. When the broker has gone, so does the worker.

import Broker
import Glibc
import NIOCore
import Synchronization
import SystemAccess

/// A connection as the broker hands it over.
struct HandedConnection: Sendable {
  /// The receiver's to close.
  var descriptor: Int32
  /// Whether the broker counts it as one of root's.
  var isOfRoot: Bool
}

/// Talks to the broker. Thread-safe.
final class BrokerLink: Sendable {
  /// An answer to a question; `descriptor` is the asker's to close.
  struct Answer: Sendable {
    var message: Message
    var descriptor: Int32?
  }

  /// The connections, until the broker says `stop`.
  let connections: AsyncStream<HandedConnection>
  private let handed: AsyncStream<HandedConnection>.Continuation
  private let channel: MessageChannel
  private struct State {
    var received: UInt64 = 0
    var lastNumber: UInt64 = 0
    var asked: [UInt64: CheckedContinuation<Answer, any Error>] = [:]
    var onLook: @Sendable () -> Void = {}
    var onStop: @Sendable () -> Void = {}
    var onOpen: @Sendable (Message) -> Void = { _ in }
    var loops: [any EventLoop] = []
  }
  private let state = Mutex(State())

  /// Takes over the descriptor of the channel. Throws if it is none: this program was not started by a broker.
  init(adopting descriptor: Int32) throws(Complaint) {
    guard let channel = MessageChannel(inherited: descriptor) else {
      throw Complaint(.usage, what: "--role is for workers, which allocsd starts by itself", advice: "leave it out")
    }
    self.channel = channel
    (connections, handed) = AsyncStream.makeStream()
  }

  /// Begins to take messages. `loops`: the threads that must be alive for a ping to be answered.
  func begin(
    loops: [any EventLoop], onLook: @escaping @Sendable () -> Void, onStop: @escaping @Sendable () -> Void,
    onOpen: @escaping @Sendable (Message) -> Void = { _ in }
  ) {
    state.withLock {
      ($0.loops, $0.onLook, $0.onStop, $0.onOpen) = (loops, onLook, onStop, onOpen)
    }
    var thread = pthread_t()
    let code = pthread_create(
      &thread, nil,
      { argument in
        if let argument { Unmanaged<BrokerLink>.fromOpaque(argument).takeRetainedValue().run() }
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    // Without the thread the worker is of no use: the broker starts another.
    guard code == 0 else { _exit(1) }
    pthread_detach(thread)
  }

  private func run() {
    while true {
      switch channel.receive(takesDescriptor: true, waits: true) {
      case .nothing: continue
      case .ended, .malformed: _exit(0)
      case .message(let message, let descriptor): handle(message, descriptor)
      }
    }
  }

  private func handle(_ message: Message, _ descriptor: Int32?) {
    switch message.kind {
    case .connection:
      state.withLock { $0.received &+= 1 }
      if let descriptor {
        handed.yield(HandedConnection(descriptor: descriptor, isOfRoot: message.value == 1))
      } else {
        // There was no room for its descriptor.
        closed(isOfRoot: message.value == 1)
      }
    case .ping: pong(message.number, state.withLock { $0.loops }[...])
    case .stop:
      handed.finish()
      state.withLock { $0.onStop }()
    case .look: state.withLock { $0.onLook }()
    case .open: state.withLock { $0.onOpen }(message)
    case .destination, .link, .users, .figures:
      let asker = state.withLock { $0.asked.removeValue(forKey: message.number) }
      if let asker {
        asker.resume(returning: Answer(message: message, descriptor: descriptor))
      } else if let descriptor {
        close(descriptor)
      }
    default: break
    }
  }

  /// Answers a ping when each of the loops has had its turn.
  private func pong(_ number: UInt64, _ loops: ArraySlice<any EventLoop>) {
    guard let loop = loops.first else { return _ = channel.send(Message(.pong, number: number), waits: true) }
    loop.execute { self.pong(number, loops.dropFirst()) }
  }

  /// A connection is closed.
  func closed(isOfRoot: Bool) { channel.send(Message(.closed, value: isOfRoot ? 1 : 0), waits: true) }

  /// The worker has nothing to do, and the broker may stop it.
  func idle() { channel.send(Message(.idle, number: state.withLock { $0.received }), waits: true) }

  func send(_ message: Message, passing descriptor: Int32) {
    channel.send(message, passing: descriptor, waits: true)
  }

  /// Asks the broker, and waits for its answer.
  func ask(_ kind: Message.Kind, value: UInt64 = 0, text: [UInt8] = []) async throws -> Answer {
    try await withCheckedThrowingContinuation { continuation in
      let number = state.withLock { state in
        state.lastNumber &+= 1
        state.asked[state.lastNumber] = continuation
        return state.lastNumber
      }
      let code = channel.send(Message(kind, number: number, value: value, text: text), waits: true)
      if code != 0, let asker = state.withLock({ $0.asked.removeValue(forKey: number) }) {
        asker.resume(
          throwing: Complaint(
            .obstacle, what: "cannot ask allocsd's broker: \(systemWords(code))", advice: "try again later",
            code: code))
      }
    }
  }
}
