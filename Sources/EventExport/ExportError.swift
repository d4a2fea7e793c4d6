// Why events can't be exported: the attempt, on what it was made, the reason of its failure, and advice.

import Glibc

/// An error of the export. Its description is one line for people.
public struct ExportError: Error, Equatable, CustomStringConvertible, Sendable {
  /// The `errno` value of the failure, 0 where no system call failed.
  public var code: Int32
  public var description: String

  public init(code: Int32 = 0, _ description: String) {
    self.code = code
    self.description = description
  }

  /// The system's words for an `errno` value.
  static func words(_ code: Int32) -> String { String(cString: strerror(code)) }
}
