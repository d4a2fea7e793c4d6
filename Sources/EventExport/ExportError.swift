// Why events can't be exported: what was attempted, on what, why it failed, what to do.

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
