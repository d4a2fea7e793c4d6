// Why a recording could not be made, read or exported.

/// An error of recordings. Its description is one line for people: `<what> — <what to do>`.
public struct RecordingError: Error, Hashable, Sendable, CustomStringConvertible {
  public var description: String
  public init(_ what: String, advice: String) { description = "\(what) — \(advice)" }
}
