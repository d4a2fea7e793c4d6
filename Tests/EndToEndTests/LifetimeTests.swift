// SPDX-License-Identifier: Apache-2.0
// Allocations at the edges of a program's life and of a library's.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("beginnings and ends")
  struct Lifetime {
    @Test(
      "blocks from before main to the last destructor are indexed, and readable after death",
      arguments: Allocator.allCases)
    func edges(allocator: Allocator) throws {
      try allocator.require()
      let program = try RecordingProgram([Programs.path("lifetime.cpp")], below: allocator.library)
      var record = try program.reach(1)
      let segment = try program.openSegment()
      #expect(record.blocks.contains { $0.size == 101 } && record.blocks.contains { $0.size == 402 })
      var differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "in main: \(differences)")
      try program.proceed()
      record = try program.reach(2)
      #expect(record.blocks.contains { $0.size == 701 } && !record.blocks.contains { $0.size == 101 })
      differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: segment)
      #expect(differences.isEmpty, "in the last destructor: \(differences)")
      try program.proceed()
      try program.finish()
      let after = try program.openSegment()
      differences = Comparison(record: record, baseline: [], isComplete: false).differences(in: after)
      #expect(differences.isEmpty, "after death: \(differences)")
      #expect(after.isProcessAlive == false)
    }

    @Test("a process that is killed leaves its index as it was")
    func killed() throws {
      let program = try RecordingProgram([Programs.path("truth.cpp"), "3", "200000", "2", "9"])
      _ = try program.reach(0)
      let baseline = try program.openSegment().allAllocations()
      try program.proceed()
      let record = try program.reach(1)
      program.process.signal(SIGKILL)
      #expect(try program.process.wait().ending == .signal(SIGKILL))
      let segment = try program.openSegment()
      let differences = Comparison(record: record, baseline: baseline).differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      #expect(segment.isProcessAlive == false)
    }

    @Test("the call site in a library stays readable after dlclose, also when another takes its addresses")
    func unloaded() throws {
      let names = ["first_plugin", "second_plugin"]
      let libraries = try names.map {
        try Programs.path("plugin.c", options: ["-fPIC", "-shared", "-DPLUGIN_FUNCTION=\($0)"])
      }
      let program = try RecordingProgram([Programs.path("loader.c")] + libraries + ["8"])
      // Sites are told apart by module: the loader unmaps them before they could be described.
      _ = try program.records.write("", to: "sites")
      let record = try program.reach(1)
      let segment = try program.openSegment()
      #expect(record.blocks.count == 400)
      var wrong: [String] = []
      for block in record.blocks {
        guard let allocation = segment.allocation(containing: block.base),
          let context = segment.context(allocation.context),
          case let stack = segment.stack(ofNode: context.node), let pc = stack.addresses.first
        else {
          wrong.append("block \(block.base) has no site")
          continue
        }
        let path =
          segment.module(of: stack.holder(ofCallAt: 0), containing: pc - 1, at: allocation.ticks)?.path ?? "nothing"
        if path != libraries[Int(block.site)] { wrong.append("\(path) instead of \(libraries[Int(block.site)])") }
      }
      #expect(wrong.isEmpty, "\(wrong.count) blocks: \(wrong.prefix(5))")

      let text = try Tool.control(
        ["query", "\(program.process.pid)", "\(record.blocks[0].base)", "--json"], in: program.directory)
      #expect(text.ending == .exit(0), "\(text.errors)")
      #expect(text.output.contains("\"function\":\"\(names[Int(record.blocks[0].site)])\""), "\(text.output)")
      try program.proceed()
      try program.finish()
    }
  }
}
