// Why a question was not answered: what failed, what to do about it, and the status that says so to a program.

import IndexReader

/// A question that could not be answered.
public struct AnswerError: Error, Hashable, Sendable {
  public enum Kind: Hashable, Sendable {
    /// The request itself is wrong: an address that is none, an option that does not exist.
    case usage
    /// No process has this id, and no segment is left of one.
    case noSuchProcess
    /// The process runs, or ran, without an index.
    case notIndexed
    /// The caller is neither root nor the process's user.
    case notPermitted
    /// There is a segment, and it can't be believed: cut short, damaged, of another version.
    case unreadable
    /// Memory, address space or descriptors of the one who looks ran out, or the places for consumers of events.
    case shortage
  }

  public var kind: Kind
  /// What was attempted, on what, and why it failed.
  public var what: String
  /// What to do about it.
  public var advice: String

  public init(_ kind: Kind, what: String, advice: String) {
    self.kind = kind
    self.what = what
    self.advice = advice
  }

  /// Exit status of a command that ends with this error: 64 (EX_USAGE) for wrong usage, else 1.
  public var exitStatus: Int32 { kind == .usage ? 64 : 1 }

  /// Status code of an HTTP response that carries this error.
  public var httpStatus: Int {
    switch kind {
    case .usage: 400
    case .noSuchProcess, .notIndexed: 404
    case .notPermitted: 403
    case .unreadable: 500
    case .shortage: 503
    }
  }

  /// `{"error":"<what> — <what to do>"}`, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 256)
    writer.append("{\"error\":")
    writer.appendJSONString(description)
    writer.append("}")
    return writer.takeString()
  }
}

extension AnswerError: CustomStringConvertible {
  /// `<what> — <what to do>`, as a program prints it after its name.
  public var description: String { "\(what) — \(advice)" }
}

extension AnswerError {
  /// The error of a segment, in the terms of whoever asked about a process.
  public init(_ error: SegmentError) {
    let kind: Kind =
      switch error {
      case .noSuchFile: .notIndexed
      case .notPermitted: .notPermitted
      case .notASegment, .halfWritten, .otherVersion, .truncated, .broken: .unreadable
      case .occupied, .system: .shortage
      }
    let separator = " — "
    let description = error.description
    if let split = description.firstRange(of: separator) {
      self.init(
        kind, what: String(description[..<split.lowerBound]), advice: String(description[split.upperBound...]))
    } else {
      self.init(kind, what: description, advice: "run the process again under the agent")
    }
  }
}
