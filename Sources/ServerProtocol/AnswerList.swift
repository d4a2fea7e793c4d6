// A list of answers, as bytes: the one form in which server and client give it, so that both say the same.
//
// JSON: one object a line. Text: each answer's lines, of which the first begins in the first column.

import Answers

/// Collects answers, rendered. Not thread-safe.
public struct AnswerList: ~Copyable {
  public enum Form: Sendable {
    case text
    case jsonLines
  }

  public let form: Form
  private var writer: ByteWriter

  public init(form: Form, capacity: Int = 4096) {
    self.form = form
    writer = ByteWriter(capacity: capacity)
  }

  /// Bytes that wait to be taken.
  public var count: Int { writer.count }

  /// The bytes collected since the last call.
  public mutating func take() -> [UInt8] { writer.take() }

  /// The bytes collected since the last call, in place, for as long as `body` runs.
  public mutating func take<Result>(_ body: (RawSpan) -> Result) -> Result {
    defer { writer.removeAll() }
    return writer.withBytes(body)
  }

  /// The answer to what is at `address`.
  public mutating func append(_ address: UInt64, from inquiry: inout Inquiry, stacks: Bool) {
    switch form {
    case .text: writer.append(text: inquiry.answer(address, stacks: stacks).text)
    case .jsonLines: inquiry.appendJSONLine(of: address, stacks: stacks, to: &writer)
    }
  }

  /// An error in the place of an answer.
  public mutating func append(_ error: AnswerError) {
    switch form {
    case .text: writer.append(text: error.description)
    case .jsonLines: writer.append(text: error.json)
    }
    writer.append("\n")
  }
}
