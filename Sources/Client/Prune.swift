// SPDX-License-Identifier: Apache-2.0
// The command prune: removes the files that ended processes have left in the directories of segments.

import Answers
import ArgumentParser
import Glibc
import IndexReader
import SystemAccess

struct Prune: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Remove the indexes of processes that have ended.",
    usage: "allocsctl prune [--older <time>] [--dry-run] [--all-users] [--json]",
    discussion: """
      Those of the user who asks, with their control files: all, or those of processes that ended long enough ago. \
      When a process ended is known where allocsd or `allocsctl run` has found it dead since; else the last thing that \
      its index tells of counts. An index that any process still has mapped is never removed. allocsd, and each \
      program that starts, remove the oldest by themselves.

      Examples:
        allocsctl prune
        allocsctl prune --older 1h --dry-run
      """)

  @Option(
    help: .init("Only of processes that ended so long ago: a number with s, m, h or d.", valueName: "time"))
  var older: String?

  @Flag(help: "Say what would be removed, and remove nothing.")
  var dryRun = false

  @Flag(help: "The indexes of all users: for root.")
  var allUsers = false

  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    if let older, Units.seconds(inTime: older) == nil {
      throw ValidationError("--older is a time such as 1h, not '\(older)'")
    }
  }

  func run() throws {
    guard !allUsers || geteuid() == 0 else {
      throw Complaint(
        .obstacle, what: "cannot remove the indexes of other users", advice: "leave --all-users out, or ask as root")
    }
    let age = older.flatMap { Units.seconds(inTime: $0) } ?? 0
    let user = allUsers ? nil : geteuid()
    func prune(isTrial: Bool) throws(Complaint) -> SweepResult {
      try SegmentDirectory.prune(olderThan: age, ofUser: user, isTrial: isTrial)
    }
    // The descriptions of the processes are read while their files still exist.
    var result = try prune(isTrial: true)
    let processes = Dictionary(result.removed.map { ($0.path, IndexedProcess($0)) }) { $1 }
    if !dryRun { result = try prune(isTrial: false) }
    let report = PruneReport(
      processes: result.removed.map { processes[$0.path] ?? IndexedProcess($0) },
      controls: result.removedControls.sorted().map { ForeignText($0) },
      bytes: result.removedBytes, kept: result.kept.count, isTrial: dryRun)
    try StandardOutput.write(json ? report.json + "\n" : report.text)
    guard let (path, why) = result.failed.min(by: { $0.key < $1.key }) else { return }
    let others = result.failed.count > 1 ? ", and \(result.failed.count - 1) more" : ""
    throw Complaint(
      .obstacle, what: "cannot remove \(path): \(why)\(others)",
      advice: "check who may write to the directory, and how it is mounted")
  }
}
