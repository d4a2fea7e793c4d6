// SPDX-License-Identifier: Apache-2.0
// A server of root's among users of whom one is hostile. What she does stands in Tests/Attacks, scene by scene; each is
// played in mount and pid namespaces of its own. A scene prints each promise that it tried, and whether it was held.

import Foundation
import TestSupport
import Testing

/// Where scenes are played.
private enum Stage {
  /// Whether this process may make one.
  static let canBeMade: Bool =
    geteuid() == 0
    && (try? ChildProcess.run(["unshare", "-m", "-p", "--fork", "--mount-proc", "true"]).ending) == .exit(0)
}

extension EndToEnd {
  @Suite("one of the users is hostile", .enabled(if: Stage.canBeMade, "needs root, mount and pid namespaces"))
  struct Security {
    /// Plays a scene, and expects that it tried something and that every promise was held.
    private func play(_ scene: String) throws {
      let outcome = try ChildProcess.run(
        [
          installedProgram("python3", package: "python3"), "-B",
          "\(Installation.packageDirectory)/Tests/Attacks/play.py", scene,
        ],
        environment: ["ALLOCS_BIN_DIR": Installation.directory.get()], patience: 500)
      let lines = outcome.output.split(separator: "\n")
      for line in lines where !line.hasPrefix("held: ") && line != "end" { Issue.record("\(scene): \(line)") }
      #expect(
        outcome.ending == .exit(0) && lines.last == "end" && lines.count > 1,
        "\(scene): \(outcome.ending) \(outcome.errors)")
    }

    @Test(
      "a segment whose name, header, owner, directory, process or control file lies tells nothing of another's process",
      arguments: [
        "claims-names", "claims-names-shared", "claims-processes", "claims-processes-shared", "claims-control",
        "claims-control-shared", "claims-directories", "claims-users", "claims-mapped-by-root", "claims-files",
      ])
    func claims(scene: String) throws { try play(scene) }

    @Test(
      "files that a segment names are opened with its user's rights alone, pipes and devices never",
      arguments: [
        "files-named", "files-mapped", "files-mapped-by-root", "files-exchanged", "files-of-tools", "files-made-code",
      ])
    func files(scene: String) throws { try play(scene) }

    @Test(
      "names in directories that others may write, exchanged at any moment, gain nothing and keep nobody out",
      arguments: [
        "directories-of-another", "directories-socket", "directories-exchanged-socket", "directories-exchanged-files",
        "directories-exchanged",
        "directories-dead", "directories-linked", "directories-taken-names", "directories-replaced",
        "directories-crowded", "directories-outputs", "directories-silent",
        "directories-own-file-system", "directories-filled", "directories-left-open",
      ])
    func directories(scene: String) throws { try play(scene) }

    @Test(
      "whatever one user asks, holds, floods or breaks, another is answered, and the server ends in time",
      arguments: [
        "budgets-questions", "budgets-memory", "budgets-debug-information", "budgets-streams", "budgets-connections",
        "budgets-slow-closes", "budgets-flood", "budgets-files", "budgets-own-worker", "budgets-priorities",
        "budgets-given-up", "budgets-stop-readers", "budgets-stop-questions", "budgets-kills", "budgets-users",
        "budgets-silent-files",
      ])
    func budgets(scene: String) throws { try play(scene) }

    @Test(
      "each user's questions are answered by a process with that user's rights, which that user can't look into",
      arguments: [
        "separation-rights", "separation-untouchable", "separation-misdirected", "separation-groups",
        "separation-many-users", "separation-nobody",
      ])
    func separation(scene: String) throws { try play(scene) }

    @Test(
      "extreme numbers in every field of a segment, a ring, debug information and a question end in answers",
      arguments: ["traps-fields", "traps-rings", "traps-debug-information", "traps-parameters"])
    func traps(scene: String) throws { try play(scene) }
  }
}
