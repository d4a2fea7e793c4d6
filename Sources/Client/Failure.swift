// How a command ends that could not do what was asked: one line on standard error, and the status of the contract.

import Answers
import Glibc

/// Exit statuses. Those of `run` are the program's own, once it runs.
enum Status {
  /// The process is not indexed, or may not be read, or the answer could not be had.
  static let notAnswered: Int32 = 1
  static let usage: Int32 = 64
  /// As shells, env(1) and nohup(1) have it: the program was found and can't be run; or was not found.
  static let notExecutable: Int32 = 126
  static let notFound: Int32 = 127
}

/// An error with the exit status it leads to.
struct Failure: Error {
  var status: Int32
  /// `<what> — <what to do>`
  var message: String

  init(_ status: Int32, _ what: String, advice: String) {
    self.status = status
    message = "\(what) — \(advice)"
  }

  init(status: Int32, message: String) {
    self.status = status
    self.message = message
  }

  init(_ error: AnswerError) { self.init(status: error.exitStatus, message: error.description) }
}

/// Runs `body`, its error as a failure of the command.
func failing<Result>(_ body: () throws(AnswerError) -> Result) throws(Failure) -> Result {
  do { return try body() } catch { throw Failure(error) }
}

/// Prints `allocsctl: <message>` on standard error, on one line, without what a terminal would act upon.
func complain(_ message: String) {
  let line = Array("allocsctl: \(TextLayout.printable(message))\n".utf8)
  _ = write(STDERR_FILENO, line, line.count)
}
