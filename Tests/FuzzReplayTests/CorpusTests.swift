// The corpus that the fuzzers have found, replayed: inputs that reach different code, and those that once failed.

import Foundation
import FuzzTargets
import Testing

@Suite(.serialized) struct CorpusTests {
  @Test("each input of the corpus is survived", arguments: FuzzTarget.allCases)
  func replay(_ target: FuzzTarget) throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("Fuzz/Corpus/\(target.rawValue)")
    let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
    #expect(!files.isEmpty)
    for file in files.sorted(by: { $0.path < $1.path }) {
      // A crash ends the test run; what was being replayed must be known then.
      try? file.path.write(toFile: "/dev/shm/allocs-replaying", atomically: false, encoding: .utf8)
      target.run([UInt8](try Data(contentsOf: file))[...])
    }
    try? FileManager.default.removeItem(atPath: "/dev/shm/allocs-replaying")
  }
}
