// SPDX-License-Identifier: Apache-2.0
// SIGBUS outside guarded mappings goes where it went before.

import Glibc
import IndexReader
import TestSupport
import Testing

/// Maps a page of a file that has none, and reads it.
private func faultElsewhere() -> UInt8 {
  let path = unusedPath("guard")
  let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
  unlink(path)
  let mapping = mmap(nil, 4096, PROT_READ, MAP_SHARED, descriptor, 0)!
  return mapping.load(as: UInt8.self)
}

@Suite("Mapping guard", .bounded)
struct MappingGuardTests {
  @Test("a fault outside the segments ends the process, as without the guard")
  func fallsThrough() async {
    await #expect(processExitsWith: .signal(SIGBUS)) {
      signal(SIGBUS, SIG_DFL)
      let synthetic = SyntheticSegment()
      let segment = try Segment(path: synthetic.path)
      unlink(synthetic.path)
      _ = segment.totals()
      print(faultElsewhere())
    }
  }

  @Test("a handler that was there before still gets the faults that are not the guard's")
  func chains() async {
    await #expect(processExitsWith: .exitCode(77)) {
      signal(SIGBUS) { _ in _exit(77) }
      let synthetic = SyntheticSegment()
      let segment = try Segment(path: synthetic.path)
      unlink(synthetic.path)
      truncate(synthetic.path, 0)
      _ = segment.totals()
      print(faultElsewhere())
    }
  }

  @Test("many segments at a time are guarded, and each alone is broken")
  func many() throws {
    let synthetics = (0..<200).map { _ in SyntheticSegment() }
    for synthetic in synthetics { synthetic.allocate(0x5555_0000_0000, size: 8) }
    let segments = try synthetics.map { try SharedSegment(path: $0.path) }
    for index in stride(from: 0, to: 200, by: 2) { truncate(synthetics[index].path, 4096) }
    for (index, segment) in segments.enumerated() {
      #expect(segment.segment.totals().count == (index % 2 == 0 ? 0 : 1))
      #expect(segment.segment.isBroken == (index % 2 == 0))
    }
  }
}
