// SPDX-License-Identifier: Apache-2.0
// The memory of protobuf messages: protobuf-c's messages are C structures that point to each other, and to lists and
// texts. All of it is given back as a whole, when the messages have been packed.

/// Owns the memory of messages. Not thread-safe. A message is used no longer than its storage lives.
package final class MessageStorage {
  private var pieces: [UnsafeMutableRawPointer] = []
  /// Bytes of all pieces.
  package private(set) var bytes = 0

  package init() {}

  deinit { for piece in pieces { piece.deallocate() } }

  private func memory<Element>(_ count: Int, of type: Element.Type) -> UnsafeMutablePointer<Element> {
    let memory = UnsafeMutablePointer<Element>.allocate(capacity: max(count, 1))
    pieces.append(UnsafeMutableRawPointer(memory))
    bytes &+= max(count, 1) &* MemoryLayout<Element>.stride &+ 32
    return memory
  }

  package func message<Message>(
    _ initialize: (UnsafeMutablePointer<Message>?) -> Void
  ) -> UnsafeMutablePointer<Message> {
    let message = memory(1, of: Message.self)
    initialize(message)
    return message
  }

  package func list<Element>(_ elements: [Element]) -> UnsafeMutablePointer<Element> {
    let memory = memory(elements.count, of: Element.self)
    memory.initialize(from: elements, count: elements.count)
    return memory
  }

  package func list<Message>(of messages: [UnsafeMutablePointer<Message>?]) -> (
    Int, UnsafeMutablePointer<UnsafeMutablePointer<Message>?>
  ) { (messages.count, list(messages)) }

  package func text(_ text: String) -> UnsafeMutablePointer<CChar>? { list(Array(text.utf8CString)) }
}
