// SPDX-License-Identifier: Apache-2.0
// How a command ends that could not do what was asked: one line on standard error, and an exit status.

import Answers
import Glibc
import SystemAccess

/// The exit statuses of allocsctl. `run` ends with the status of the program itself, once that runs.
enum ExitStatus {
  /// The process is not indexed, or may not be read, or something else stood in the way of an answer.
  static let notAnswered: Int32 = 1
  /// A check that was asked for has failed: `diff --fail-over`.
  static let checkFailed: Int32 = 2
  /// The command line or the configuration is wrong (EX_USAGE of sysexits.h).
  static let usage: Int32 = 64
  /// The program was found and can't be executed: the number that shells, env(1) and nohup(1) use.
  static let notExecutable: Int32 = 126
  /// The program was not found: also the shells' number.
  static let notFound: Int32 = 127

  /// The status of a command that ends with `complaint`.
  static func of(_ complaint: Complaint) -> Int32 {
    switch complaint.kind {
    case .usage: usage
    case .programNotFound: notFound
    case .programNotExecutable: notExecutable
    case .noSuchProcess, .noSuchGroup, .noTotals, .notIndexed, .notPermitted, .halfWritten, .unreadable, .shortage,
      .budget, .obstacle:
      notAnswered
    }
  }
}

/// Prints `allocsctl: <message>` on standard error, on one line, without characters that a terminal would act upon.
func complain(_ message: String) {
  ProgressLine.erase()
  _ = writeAll(Array("allocsctl: \(TextLayout.printable(message))\n".utf8), to: STDERR_FILENO)
}
