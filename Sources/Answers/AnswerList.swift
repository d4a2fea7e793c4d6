// SPDX-License-Identifier: Apache-2.0
// A list of answers, as bytes. Server and client both print this list, so their answers are the same.
//
// As JSON, each answer is one object on a line. As text, each answer has several lines, of which only the first begins
// in the first column.

import Bounds
import SystemAccess

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

  /// Appends the answer about `address`.
  public mutating func append(_ address: UInt64, from inquiry: inout Inquiry, stacks: Bool) {
    switch form {
    case .text: writer.append(text: inquiry.answer(address, stacks: stacks).text)
    case .jsonLines: inquiry.appendJSONLine(of: address, stacks: stacks, to: &writer)
    }
  }

  /// Appends the answers about all of `addresses`, as far as the current budget allows; its owner checks it afterwards.
  /// Memory counts twice: for the list, and for the copy of it that goes out.
  public mutating func append(_ addresses: [UInt64], from inquiry: inout Inquiry, stacks: Bool) {
    var meter = BudgetMeter(interval: 64)
    let share = MemoryShare()
    for address in addresses {
      guard meter.goesOn() else { break }
      append(address, from: &inquiry, stacks: stacks)
      share.hold(2 &* count)
    }
  }

  /// Appends an error in the place of an answer.
  public mutating func append(_ error: Complaint) {
    switch form {
    case .text: writer.append(line: error.description)
    case .jsonLines:
      writer.append(text: error.json)
      writer.append("\n")
    }
  }
}
