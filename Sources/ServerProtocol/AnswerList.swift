// A list of answers, as bytes: the one form in which server and client give it, so that both say the same.
//
// JSON: one object a line. Text: each answer's lines, an empty line between two answers.

import Answers

/// Collects answers, rendered. Not thread-safe.
public struct AnswerList: ~Copyable {
  public enum Form: Sendable {
    case text
    case jsonLines
  }

  public let form: Form
  private var writer: ByteWriter
  /// Whether something was added before, also if it was taken since.
  private var hasEntries = false

  public init(form: Form, capacity: Int = 4096) {
    self.form = form
    writer = ByteWriter(capacity: capacity)
  }

  /// What is added goes on with a list that began elsewhere.
  public mutating func continueList() { hasEntries = true }

  /// Bytes that wait to be taken.
  public var count: Int { writer.count }

  /// The bytes collected since the last call; what follows goes on with the same list.
  public mutating func take() -> [UInt8] { writer.take() }

  public mutating func append(_ answer: Answer) {
    switch form {
    case .text:
      if hasEntries { writer.append("\n") }
      writer.append(text: answer.text)
    case .jsonLines:
      answer.appendJSON(to: &writer)
      writer.append("\n")
    }
    hasEntries = true
  }

  /// An error in the place of an answer.
  public mutating func append(_ error: AnswerError) {
    switch form {
    case .text:
      if hasEntries { writer.append("\n") }
      writer.append(text: error.description)
    case .jsonLines:
      writer.append(text: error.json)
    }
    writer.append("\n")
    hasEntries = true
  }

  /// Bytes of a list, rendered elsewhere, that are to follow what is here.
  public mutating func append(rendered bytes: [UInt8]) {
    guard !bytes.isEmpty else { return }
    if form == .text, hasEntries { writer.append("\n") }
    writer.append(bytes: bytes)
    hasEntries = true
  }
}
