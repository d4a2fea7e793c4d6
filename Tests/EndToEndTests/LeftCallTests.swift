// SPDX-License-Identifier: Apache-2.0
// Calls of the allocator that never return, because something jumped out of them: what the thread allocates afterwards.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("calls that were left")
  struct LeftCalls {
    private struct Block {
      var base: UInt64
      var size: UInt64
    }

    /// Runs the program to its end, and gives its index and the blocks that it named.
    private func run(
      _ command: [String], _ variables: [String: String] = [:], below: String? = nil,
      _ body: (borrowing Segment, [Block]) throws -> Void
    ) throws {
      let directory = try TestDirectory()
      let environment = try Installation.agentEnvironment(directory.path, below: below).merging(variables) { $1 }
      let outcome = try ChildProcess.run(command, environment: environment)
      try #require(outcome.ending == .exit(0), "\(outcome.ending) \(outcome.errors)")
      let blocks = try outcome.output.split(separator: "\n").map { line in
        let words = line.split(separator: " ")
        guard words.count == 2, let base = UInt64(words[0].dropFirst(2), radix: 16), let size = UInt64(words[1]) else {
          throw HarnessError("the program says '\(line)'")
        }
        return Block(base: base, size: size)
      }
      let paths = try directory.segments()
      try #require(paths.count == 1, "\(paths)")
      try body(Segment(path: paths[0]), blocks)
    }

    /// The blocks that the index does not have as they are.
    private func missing(_ blocks: [Block], in segment: borrowing Segment) -> [Block] {
      var missing: [Block] = []
      for block in blocks {
        let found = segment.allocation(containing: block.base)
        if found?.base != block.base || found?.size != block.size { missing.append(block) }
      }
      return missing
    }

    private func count(_ name: String, in segment: borrowing Segment) -> UInt64 {
      segment.counters.first { $0.name == name }?.value ?? 0
    }

    private static let faults = [
      "posix_memalign", "realloc", "reallocarray", "resize", "free", "usable", "delete", "sized delete", "malloc",
      "calloc", "new",
    ]

    @Test(
      "a call that faulted and was jumped out of leaves the thread indexed, to its very last block", arguments: faults,
      [[], ["thread"], ["alternate"]])
    func fault(how: String, place: [String]) throws {
      // Of a block whose size was overwritten, other threads' locks are held where there are other threads.
      guard how != "resize" || place != ["thread"] else { return }
      for stacks in ["full", "site"] {
        let program = try Programs.path("left_calls.cpp")
        try run([program, how] + place, ["ALLOCS_STACKS": stacks]) { segment, blocks in
          #expect(blocks.count == 101)
          let missing = missing(blocks, in: segment)
          #expect(missing.isEmpty, "\(missing.count), the first \(missing[0]), \(segment.counters)")
          // Whether the old block lives is not known; nothing else is lost.
          #expect(count("blocks_left", in: segment) == (how == "resize" ? 21 : 0))
          #expect(segment.lostBlocks == count("blocks_left", in: segment), "\(segment.counters)")
        }
      }
    }

    @Test("with events on, too", arguments: ["posix_memalign", "realloc", "malloc", "new"])
    func events(how: String) throws {
      let program = try Programs.path("left_calls.cpp")
      try run([program, how], ["ALLOCS_EVENTS": "1"]) { segment, blocks in
        #expect(blocks.count == 101 && missing(blocks, in: segment).isEmpty, "\(segment.counters)")
      }
    }

    @Test("a coroutine that an allocator switches to has not left the call: each block is there once")
    func coroutines() throws {
      let library = try Programs.path("switching.c", options: ["-fPIC", "-shared", "-DSWITCHING_LIBRARY"])
      try run([Programs.path("switching.c")], below: library) { segment, blocks in
        let missing = missing(blocks, in: segment)
        // A block that the coroutine allocates meanwhile is in the index, or counted.
        let ofProgram = missing.filter { $0.size < 3000 }
        #expect(blocks.count == 125 && ofProgram.isEmpty, "\(ofProgram)")
        #expect(UInt64(missing.count) <= segment.lostBlocks)
        #expect(count("calls_left", in: segment) == 0)
      }
    }
  }
}
