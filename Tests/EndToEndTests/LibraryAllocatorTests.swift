// SPDX-License-Identifier: Apache-2.0
// Allocators that lie behind the agent, in libraries, and in what is opened later: each is hooked where it is defined.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("allocators of libraries")
  struct LibraryAllocators {
    private static let plugin = "plugged_allocator.c"
    private static func plugin(_ options: [String]) throws -> String {
      try Programs.path(plugin, options: ["-fPIC", "-shared", "-w"] + options)
    }

    /// Differences between blocks of the record and what the index says, without sites.
    private func differences(
      _ record: Record, _ segment: borrowing Segment, allocator: String?
    ) -> [String] {
      record.blocks.compactMap { block in
        guard let found = segment.allocation(containing: block.base), found.base == block.base else {
          return "\(block.base) of \(block.size) bytes is missing"
        }
        guard found.size == block.size else { return "\(block.base) has \(found.size) bytes, not \(block.size)" }
        let name = segment.context(found.context)?.allocator?.name?.unescaped
        return name == allocator ? nil : "\(block.base) is \(name ?? "nobody")'s"
      }
    }

    @Test(
      "a plugin's own allocator is seen, also when the plugin was opened 10,000 times before while others allocate",
      arguments: [["-Wl,-Bsymbolic"], ["-Wl,-Bsymbolic", "-Wl,-z,now", "-O0"]])
    func plugin(options: [String]) throws {
      let plugin = try Self.plugin(options)
      let program = try RecordingProgram([Programs.path("plugging.c"), plugin, "10000"])
      let record = try program.reach(1)
      let segment = try program.openSegment()
      #expect(record.blocks.count == 225)
      #expect(differences(record, segment, allocator: (plugin as NSString).lastPathComponent) == [])
      #expect(segment.counter("unknown_frees") == 0)
      #expect(segment.counter("entries_hooked") ?? 0 >= 40_000)
      #expect(segment.bypasses == [])
      // No allocator for each time.
      #expect(segment.allocators.count == 2)
      let maps = try String(contentsOfFile: "/proc/\(program.process.pid)/maps", encoding: .utf8)
      #expect(!maps.contains(" rwx"), "nothing is writable and executable")
      #expect(maps.split(separator: "\n").count < 100, "gates are given back")
      try program.proceed()
      try program.finish()
    }

    @Test("an allocator in a namespace of its own is seen")
    func namespace() throws {
      let plugin = try Self.plugin(["-Wl,-Bsymbolic"])
      let program = try RecordingProgram([Programs.path("plugging.c"), plugin, "20", "apart"])
      let record = try program.reach(1)
      let segment = try program.openSegment()
      #expect(differences(record, segment, allocator: (plugin as NSString).lastPathComponent) == [])
      try program.proceed()
      try program.finish()
    }

    @Test("a plugin's allocator whose free cannot be hooked is left alone, and named once")
    func shortFree() throws {
      let plugin = try Self.plugin(["-Wl,-Bsymbolic", "-DSHORT"])
      let program = try RecordingProgram([Programs.path("plugging.c"), plugin, "50"])
      let record = try program.reach(1)
      let segment = try program.openSegment()
      #expect(record.blocks.allSatisfy { segment.allocation(containing: $0.base) == nil })
      #expect(
        segment.bypasses == [
          Bypass(function: "free", module: ForeignText(plugin), reason: "it is too short"),
          Bypass(function: nil, module: ForeignText(plugin), reason: "what it frees would not be known"),
        ])
      try program.proceed()
      try program.finish()
    }

    @Test("mimalloc's heaps and texts are recorded; destroying a heap ends its blocks, deleting one does not")
    func heaps() throws {
      try Allocator.mimalloc.require()
      let program = try RecordingProgram([Programs.path("heaps.c", options: ["-lmimalloc"])])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let before = Set(segment.allAllocations().map { "\($0.base) \($0.size)" })
      for checkpoint in 1...2 {
        try program.proceed()
        let record = try program.reach(checkpoint)
        let found = Set(segment.allAllocations().map { "\($0.base) \($0.size)" }).subtracting(before)
        let expected = Set(record.blocks.map { "\($0.base) \($0.size)" })
        #expect(found.subtracting(expected) == [], "too many")
        #expect(expected.subtracting(found) == [], "missing")
      }
      #expect(segment.counter("unknown_frees") == 0 && segment.counter("heaps_destroyed") == 0)
      #expect(segment.bypasses == [])
      try program.proceed()
      try program.finish()
    }

    @Test(
      "where memory cannot be made executable, or not be written as a file, a program runs as without the agent",
      arguments: [("mprotect", true), ("mdwe", true), ("pwrite", true), ("both", false)])
    func denied(way: String, isHooked: Bool) throws {
      let denied = try Programs.path("denied.c")
      let path = try Programs.path("truth.cpp", options: [Programs.source("own_allocator.cpp")])
      if try ChildProcess.run([denied, way, "/bin/true"]).ending == .exit(77) { return }  // an older kernel
      let program = try RecordingProgram([denied, way, path, "2", "40000", "1", "11", "none"])
      _ = try program.reach(0)
      try program.proceed()
      let record = try program.reach(1)
      let segment = try program.openSegment()
      if isHooked {
        #expect(record.blocks.allSatisfy { segment.allocation(containing: $0.base)?.size == $0.size })
        #expect(segment.bypasses == [])
      } else {
        #expect(segment.counter("entries_hooked") == 0)
        #expect(
          segment.bypasses == [Bypass(function: nil, module: nil, reason: "memory cannot be made executable here")])
      }
      let maps = try String(contentsOfFile: "/proc/\(program.process.pid)/maps", encoding: .utf8)
      #expect(!maps.contains(" rwx"), "nothing is writable and executable")
      try program.proceed()
      try program.finish()
    }

    @Test("a program in a debugger stops at its breakpoints, and goes on", .enabled(if: hasDebugger, "needs gdb"))
    func debugger() throws {
      let directory = try TestDirectory()
      let environment = try Installation.agentEnvironment(directory.path).map { "set environment \($0) \($1)" }
      let commands = environment + ["set breakpoint pending on", "break one_round", "break plugin_put", "run"]
      let outcome = try ChildProcess.run(
        ["gdb", "-nx", "-batch"] + (commands + Array(repeating: "continue", count: 12)).flatMap { ["-ex", $0] }
          + [
            "--args", try Programs.path("plugging.c"), try Self.plugin(["-Wl,-Bsymbolic"]), "3", "alone",
          ], patience: 120)
      #expect(outcome.output.contains("Breakpoint 1, one_round"), "\(outcome)")
      #expect(outcome.output.contains("Breakpoint 2, plugin_put"), "\(outcome)")
      #expect(outcome.output.contains("exited normally") || outcome.output.contains("Breakpoint"), "\(outcome)")
      #expect(!outcome.output.contains("SIG"), "\(outcome)")
    }
    static let hasDebugger = (try? ChildProcess.run(["gdb", "--version"]).ending) == .exit(0)

    @Test("the agent's decoder and Zydis agree on every instruction of libraries and programs", .enabled(if: hasZydis))
    func decoder() throws {
      let machine = "\(Installation.packageDirectory)/Sources/Agent/Machine/include"
      let program = try Programs.path(
        "decoder.c", options: ["-w", "-I", machine, "-D_Nonnull=", "-D_Nullable=", "-lZydis"])
      let libraries = [
        "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
        "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0", "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/bin/python3", try Installation.path(of: Installation.agent),
      ].filter { FileManager.default.fileExists(atPath: $0) }
      let outcome = try ChildProcess.run([program] + libraries, patience: 120)
      #expect(outcome.ending == .exit(0))
      let rows = outcome.output.split(separator: "\n").map { $0.split(separator: " ") }
      #expect(rows.count == libraries.count)
      for row in rows {
        let (agreed, refused, differing) = (Int(row[0]) ?? 0, Int(row[1]) ?? .max, Int(row[2]) ?? .max)
        #expect(agreed > 1000 && differing == 0, "\(row): \(outcome.errors)")
        // Tables that lie between functions, as in libcrypto, are not instructions.
        #expect(refused < agreed / 1000, "\(row): \(outcome.errors)")
      }
    }
    static let hasZydis = FileManager.default.fileExists(atPath: "/usr/include/Zydis/Zydis.h")
  }
}
