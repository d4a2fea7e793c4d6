// SPDX-License-Identifier: Apache-2.0
// Allocator × language × linkage: programs with an allocator of their own, each against its own record. Where functions
// have names of their own, the C library's are used beside them.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("allocator, language, linkage")
  struct AllocatorMatrix {
    struct Row: CustomTestStringConvertible, Sendable {
      var testDescription: String
      /// The program, what it is linked with, and its arguments.
      var source: String
      var options: @Sendable () throws -> [String]
      var arguments: [String]
      /// How many functions are hooked at their entry at least.
      var hooked: UInt64
      /// Sites whose blocks are the C library's.
      var isLibc: @Sendable (UInt32) -> Bool = { _ in false }
      /// Whether one function stands for one name: see Comparison.
      var tellsFunctions = true
      /// The allocator's name in answers; nil if it is called by its module.
      var allocator: String?
      /// The name of the module that the program's own blocks come from; nil for the program itself.
      var module: String?

      /// families.c: its first three sites call the C library.
      static func c(
        _ name: String, _ options: [String], hooked: UInt64 = 8, allocator: String? = nil, tellsFunctions: Bool = true,
        isLibc: @escaping @Sendable (UInt32) -> Bool = { $0 < 3 }, module: String? = nil,
        with library: @escaping @Sendable () throws -> [String]
      ) -> Row {
        Row(
          testDescription: "C, \(name)", source: "families.c", options: { options + (try library()) },
          arguments: ["80000", "2", "5"], hooked: hooked, isLibc: isLibc, tellsFunctions: tellsFunctions,
          allocator: allocator, module: module)
      }
      /// truth.cpp with an allocator whose names only the program has; operators are the C++ library's, from site 10
      /// on, unless the allocator has them.
      static func cpp(
        _ name: String, _ options: [String], hooked: UInt64 = 6, hasOperators: Bool = false, allocator: String? = nil,
        tellsFunctions: Bool = true, isLibc: (@Sendable (UInt32) -> Bool)? = nil, largest: Int? = nil,
        with library: @escaping @Sendable () throws -> [String] = { [] }
      ) -> Row {
        Row(
          testDescription: "C++, \(name)", source: "truth.cpp", options: { options + (try library()) },
          arguments: ["3", "90000", "2", "6", "none"] + (largest.map { ["\($0)"] } ?? []), hooked: hooked,
          isLibc: isLibc ?? { $0 >= 10 && !hasOperators },
          tellsFunctions: tellsFunctions, allocator: allocator)
      }
      static func rust(
        _ name: String, _ options: [String], hooked: UInt64, allocator: String? = nil, module: String? = nil,
        with library: @escaping @Sendable () throws -> [String] = { [] }
      ) -> Row {
        Row(
          testDescription: "Rust, \(name)", source: "truth.rs",
          options: { options + (try library().flatMap { ["-C", "link-arg=\($0)"] }) },
          arguments: ["3", "90000", "2", "7"], hooked: hooked, tellsFunctions: false, allocator: allocator,
          module: module)
      }
    }

    private static let rjem: @Sendable () throws -> [String] = {
      [try StaticAllocators.jemalloc(prefix: "_rjem_"), "-lm", "-lc"]
    }
    private static let own = Programs.source("own_allocator.cpp")
    private static let tight = Programs.source("tight_allocator.cpp")

    static let rows: [Row] = [
      .c("jemalloc, _rjem_", ["-DJEMALLOC", "-DPREFIX=_rjem_"], hooked: 12, allocator: "jemalloc", with: rjem),
      .c(
        "jemalloc, _rjem_, at a fixed address", ["-no-pie", "-DJEMALLOC", "-DPREFIX=_rjem_"], hooked: 12,
        allocator: "jemalloc", with: rjem),
      .c(
        "jemalloc, _rjem_, symbols removed, exported", ["-rdynamic", "-s", "-DJEMALLOC", "-DPREFIX=_rjem_"], hooked: 12,
        allocator: "jemalloc", with: rjem),
      .c("jemalloc, je_", ["-DJEMALLOC", "-DPREFIX=je_"], hooked: 12, allocator: "jemalloc") {
        [try StaticAllocators.jemalloc(prefix: "je_"), "-lm"]
      },
      .c("mimalloc, mi_", ["-DMIMALLOC", "-DPREFIX=mi_"], hooked: 15, allocator: "mimalloc") {
        [try StaticAllocators.mimallocWithoutOverride()]
      },
      .c(
        "mimalloc, mi_, at a fixed address", ["-no-pie", "-DMIMALLOC", "-DPREFIX=mi_"], hooked: 15,
        allocator: "mimalloc"
      ) {
        [try StaticAllocators.mimallocWithoutOverride()]
      },
      .c(
        "mimalloc, malloc and mi_", ["-rdynamic", "-DMIMALLOC", "-DPREFIX=mi_"], hooked: 20, tellsFunctions: false,
        isLibc: { _ in false }
      ) { [try StaticAllocators.mimalloc()] },
      .c(
        "tcmalloc, malloc and tc_", ["-DTCMALLOC", "-DPREFIX=tc_"], hooked: 10, tellsFunctions: false,
        isLibc: { _ in false }
      ) { ["-l:libtcmalloc_minimal.a", "-lstdc++", "-lm"] },
      // Libraries behind the agent: malloc's names come to the agent, the others are hooked.
      .c(
        "jemalloc's library, malloc and mallocx", ["-DJEMALLOC", "-DPREFIX="], hooked: 12, tellsFunctions: false,
        isLibc: { _ in false }, module: "libjemalloc"
      ) { ["-ljemalloc"] },
      .c(
        "mimalloc's library, malloc and mi_", ["-DMIMALLOC", "-DPREFIX=mi_"], hooked: 20, tellsFunctions: false,
        isLibc: { _ in false }, module: "libmimalloc"
      ) { ["-lmimalloc"] },
      .c(
        "tcmalloc's library, malloc and tc_", ["-DTCMALLOC", "-DPREFIX=tc_"], hooked: 10, tellsFunctions: false,
        isLibc: { _ in false }, module: "libtcmalloc"
      ) { ["-l:libtcmalloc_minimal.so.4"] },
      .c("dlmalloc, dl", ["-DDLMALLOC", "-DPREFIX=dl"], allocator: "dlmalloc") { [try StaticAllocators.dlmalloc()] },
      .c(
        "dlmalloc, dl, with landing pads", ["-O0", "-fcf-protection", "-DDLMALLOC", "-DPREFIX=dl"],
        allocator: "dlmalloc"
      ) {
        [try StaticAllocators.dlmalloc()]
      },
      .cpp("hidden free lists", ["-DOWN_NAMES", "-fvisibility=hidden", own]),
      .cpp(
        "a hidden bump allocator, at a fixed address",
        ["-DOWN_NAMES", "-DBUMP", "-no-pie", "-fvisibility=hidden", own]),
      .cpp("hidden free lists, with landing pads", ["-DOWN_NAMES", "-fcf-protection", "-fvisibility=hidden", own]),
      .cpp("blocks side by side at multiples of 8, hidden", ["-DOWN_NAMES", "-fvisibility=hidden", tight]),
      .cpp(
        "blocks side by side at multiples of 8, up to 64 bytes", ["-DOWN_NAMES", "-fvisibility=hidden", tight],
        largest: 64),
      .cpp(
        "blocks side by side at multiples of 8, for all callers", ["-rdynamic", tight], isLibc: { _ in false },
        largest: 200),
      .cpp(
        "hidden jemalloc, operators too", ["-DOWN_NAMES"], hooked: 15, hasOperators: true,
        with: { ["-l:libjemalloc_pic.a", "-lm", "-Wl,--exclude-libs,ALL"] }),
      .cpp(
        "hidden tcmalloc, operators too", ["-DOWN_NAMES"], hooked: 15, hasOperators: true, allocator: "tcmalloc",
        tellsFunctions: false,
        with: { ["-l:libtcmalloc_minimal.a", "-Wl,--exclude-libs,ALL"] }),
      .cpp(
        "mimalloc, operators too", ["-DDOES_NOT_THROW", "-rdynamic"], hooked: 15, hasOperators: true,
        tellsFunctions: false, with: { [try StaticAllocators.mimalloc()] }),
      .rust("the default allocator", [], hooked: 0, module: "libc.so"),
      .rust("jemalloc", ["--cfg", "rjem"], hooked: 5, allocator: "jemalloc", with: rjem),
      .rust(
        "jemalloc, at a fixed address", ["--cfg", "rjem", "-C", "relocation-model=static"], hooked: 5,
        allocator: "jemalloc", with: rjem),
      .rust("mimalloc", ["--cfg", "mimalloc"], hooked: 4, allocator: "mimalloc") {
        [try StaticAllocators.mimallocWithoutOverride()]
      },
    ]

    @Test("every block of random operations is in the index, by its own allocator", arguments: rows)
    func truth(row: Row) throws {
      let path = try Programs.path(row.source, options: row.options())
      let program = try RecordingProgram([path] + row.arguments)
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      if row.hooked == 0 {
        #expect(segment.counter("entries_hooked") == 0)
      } else {
        #expect((segment.counter("entries_hooked") ?? 0) >= row.hooked)
      }
      #expect(segment.counter("entries_refused") == 0)
      try program.proceed()
      for checkpoint in 1...2 {
        let record = try program.reach(checkpoint)
        #expect(record.blocks.count > 2000)
        var comparison = Comparison(record: record, baseline: baseline, tellsFunctions: row.tellsFunctions)
        let own = row.module ?? (path as NSString).lastPathComponent
        comparison.allocatorPrefixOfSite = { row.isLibc($0) ? "libc.so" : own }
        let differences = comparison.differences(in: segment)
        #expect(differences.isEmpty, "check point \(checkpoint): \(differences)")
        let names = Set(
          record.blocks.filter { !row.isLibc($0.site) }.map {
            segment.lookup($0.base).containing.flatMap { segment.context($0.context) }?.allocator?.name
          })
        #expect(names == [row.allocator.map { ForeignText($0) }])
        try program.expectComplete(segment, record, baseline: baseline)
        try program.proceed()
      }
      try program.finish()
    }
  }
}
