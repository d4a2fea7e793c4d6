// SPDX-License-Identifier: Apache-2.0
// One version: the file VERSION at the top.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the version")
  struct Versions {
    private func file(_ name: String) throws -> String {
      try String(contentsOfFile: "\(Installation.packageDirectory)/\(name)", encoding: .utf8)
    }

    private func version() throws -> String { try file("VERSION").trimmingCharacters(in: .newlines) }

    @Test("a program says the version in VERSION", arguments: ["allocsctl", "allocsd"])
    func programs(_ name: String) throws {
      let outcome = try ChildProcess.run([Installation.path(of: name), "--version"])
      let version = try version()
      #expect(outcome.ending == .exit(0) && outcome.output == "\(version)\n")
    }

    @Test("the kit's description says the version in VERSION")
    func kit() throws {
      let text = try String(contentsOfFile: Installation.path(of: "allocs-inexe.pc"), encoding: .utf8)
      #expect(text.split(separator: "\n").contains("Version: \(try version())"))
    }

    @Test("the newest version in CHANGELOG.md is the one in VERSION")
    func changelog() throws {
      let headings = try file("CHANGELOG.md").matches(of: /(?m)^## \[([^\]]+)\]/).map { String($0.1) }
      #expect(try headings.first { $0 != "Unreleased" } == version())
    }
  }
}
