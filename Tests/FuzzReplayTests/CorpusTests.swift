// SPDX-License-Identifier: Apache-2.0
// The corpus that the fuzzers have found, replayed: inputs that reach different code, and those that once failed.

import Foundation
import FuzzTargets
import TestSupport
import Testing

@Suite("Corpus of the fuzzers", .serialized, .bounded)
struct CorpusTests {
  private let corpus = "\(Installation.packageDirectory)/Tests/Fuzz/Corpus"

  /// The files in a folder, none if there is no folder.
  private func files(in folder: String) -> [String] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    return names.sorted().map { "\(folder)/\($0)" }
  }

  @Test("each input of the corpus is survived", arguments: FuzzTarget.allCases)
  func replay(_ target: FuzzTarget) throws {
    let unpacked = try TestDirectory()
    let outcome = try ChildProcess.run(["tar", "-xzf", "\(corpus)/\(target.rawValue).tar.gz", "-C", unpacked.path])
    try #require(outcome.ending == .exit(0), "\(outcome.errors)")
    let archived = files(in: unpacked.path)
    #expect(archived.count > 100)
    // Beside the archives lies what has failed in the last search.
    for file in archived + files(in: "\(corpus)/\(target.rawValue)") {
      // A crash ends the test run, and leaves the directory: what was being replayed must be known then.
      try? file.write(toFile: "/dev/shm/allocs-replaying", atomically: false, encoding: .utf8)
      target.run([UInt8](try Data(contentsOf: URL(fileURLWithPath: file)))[...])
    }
    try? FileManager.default.removeItem(atPath: "/dev/shm/allocs-replaying")
  }
}
