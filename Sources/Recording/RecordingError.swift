// Why a recording could not be made or read.

/// `<what> — <what to do>`.
public struct RecordingError: Error, Hashable, Sendable, CustomStringConvertible {
  public var description: String
  public init(_ what: String, advice: String) { description = "\(what) — \(advice)" }
}
