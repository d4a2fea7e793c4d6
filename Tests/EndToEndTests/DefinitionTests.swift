// SPDX-License-Identifier: Apache-2.0
// Callers that reach the C library's own malloc by another way than the first definition in the search order: each
// block is in the index, each free is seen, and no answer names the agent.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("definitions behind the agent's")
  struct Definitions {
    /// The blocks that a program has named, up to "ready".
    struct Said {
      var live: [(name: String, address: UInt64, size: UInt64)] = []
      var freed: [(name: String, address: UInt64, size: UInt64)] = []

      init(_ process: ChildProcess) throws {
        for line in try process.readLines(until: "ready").dropLast() {
          let words = line.split(separator: " ").map(String.init)
          guard words.count == 4, let address = UInt64(words[2].dropFirst(2), radix: 16), let size = UInt64(words[3])
          else { throw HarnessError("it said '\(line)'") }
          if words[0] == "live" { live.append((words[1], address, size)) }
          if words[0] == "freed" { freed.append((words[1], address, size)) }
        }
      }
    }

    /// Starts a program under the agent; `preload` gets the agent's path.
    private func start(
      _ arguments: [String], in directory: TestDirectory, preload: (String) -> String = { $0 },
      environment: [String: String] = [:]
    ) throws -> ChildProcess {
      let agent = try Installation.path(of: Installation.agent)
      return try ChildProcess(
        arguments,
        environment: ChildProcess.baseEnvironment.merging(environment) { $1 }.merging([
          "LD_PRELOAD": preload(agent), "ALLOCS_DIR": directory.path,
        ]) { $1 }, conversing: true)
    }

    private func check(
      _ said: Said, of process: ChildProcess, in directory: TestDirectory, sites: Set<String>,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let addresses = (said.live + said.freed).map { String($0.address) }
      let answers = try Tool.objects(
        Tool.control(["query", "\(process.pid)", "--json"] + addresses, in: directory).output)
      try #require(answers.count == addresses.count, sourceLocation: sourceLocation)
      for (answer, block) in zip(answers, said.live) {
        #expect(
          answer["kind"] as? String == "heap" && answer["offset"] as? Int == 0
            && answer["size"] as? UInt64 == block.size,
          "\(block): \(answer)", sourceLocation: sourceLocation)
        let site = (answer["site"] as? [String: Any])?["function"] as? String
        #expect(site.map { sites.contains($0) } == true, "\(block): \(answer)", sourceLocation: sourceLocation)
        for frame in answer["stack"] as? [[String: Any]] ?? [] {
          let module = frame["module"] as? String ?? ""
          #expect(!module.hasSuffix(Installation.agent), "\(block): \(answer)", sourceLocation: sourceLocation)
        }
      }
      for (answer, block) in zip(answers.dropFirst(said.live.count), said.freed) {
        #expect(answer["kind"] as? String == "free", "\(block): \(answer)", sourceLocation: sourceLocation)
      }
      for answer in answers {
        for field in ["lost_blocks", "unknown_frees", "imbalance", "may_pass_by"] {
          #expect(answer[field] == nil, "\(answer)", sourceLocation: sourceLocation)
        }
      }
    }

    static let bindings: [[String]] = [[], ["-Wl,-z,lazy"], ["-Wl,-z,now"], ["-no-pie", "-Wl,-z,now"]]

    @Test(
      "by RTLD_DEEPBIND, by __libc_malloc and by dlsym, each block is in the index and each free is seen",
      arguments: bindings)
    func direct(_ options: [String]) throws {
      let program = try Programs.path("direct.c", options: options)
      let plugin = try Programs.path("direct_plugin.c", options: ["-shared", "-fPIC"])
      let directory = try TestDirectory()
      let process = try start([program, plugin, plugin + ""], in: directory)
      let said = try Said(process)
      #expect(said.live.count > 20 && said.freed.count >= 8)
      try check(
        said, of: process, in: directory,
        sites: ["main", "plugin", "plugin_allocate", "plugin_allocate_by_name"])
    }

    @Test("the addresses of malloc are the same, by whatever way they are asked for, and dladdr finds the agent's")
    func addresses() throws {
      let directory = try TestDirectory()
      let process = try start([Programs.path("same.c")], in: directory)
      #expect(try process.readLines(until: "ready").dropLast().joined() == "same 1 1 1 1")
    }

    enum Place: String, CaseIterable, Sendable { case before, behind, linked, linkedEarly }

    @Test(
      "a library that asks dlsym for the next malloc at each call is passed through once, wherever it is",
      arguments: Place.allCases)
    func asking(_ place: Place) throws {
      let early = place == .linkedEarly ? ["-DASKS_EARLY"] : []
      let library = try Programs.path(
        "asking.c", options: ["-shared", "-fPIC", "-Wl,-Bsymbolic", "-Wl,-soname,\(place.rawValue).so"] + early)
      let links = try TestDirectory()
      try FileManager.default.createSymbolicLink(
        atPath: links.file("\(place.rawValue).so"), withDestinationPath: library)
      let program = try Programs.path("asking_user.c", options: [library])
      let directory = try TestDirectory()
      let process = try start(
        [program], in: directory,
        preload: {
          switch place {
          case .before: "\(library):\($0)"
          case .behind: "\($0):\(library)"
          case .linked, .linkedEarly: $0
          }
        }, environment: ["LD_LIBRARY_PATH": links.path])
      let said = try Said(process)
      try check(said, of: process, in: directory, sites: ["main", "asking_allocate"])
    }

    private static let libmemusage = "/lib/x86_64-linux-gnu/libmemusage.so"

    // Before the agent, libmemusage is told nothing of functions that the agent has and this C library lacks,
    // free_sized and cfree: a program that looks for them gets functions that go past libmemusage, which then finds a
    // block that is not its own. So in that order the program does without (README, Limits).
    @Test(
      "libmemusage counts before and behind the agent, and every block is indexed once",
      .enabled(if: FileManager.default.fileExists(atPath: libmemusage), "needs libmemusage, of libc6's utilities"),
      arguments: [true, false])
    func memusage(isBefore: Bool) throws {
      let library = Self.libmemusage
      let agent = try Installation.path(of: Installation.agent)
      let program = try RecordingProgram(
        [
          Programs.path("truth.cpp", options: isBefore ? ["-DOWN_NAMES"] : []), "4", "100000", "1", "11", "none",
        ],
        environment: [
          "LD_PRELOAD": isBefore ? "\(library):\(agent)" : "\(agent):\(library)", "MEMUSAGE_OUTPUT": "/dev/null",
        ])
      _ = try program.reach(0)
      let segment = try program.openSegment()
      try program.proceed()
      let record = try program.reach(1)
      let found = Set(segment.allAllocations().map { "\($0.base) \($0.size)" })
      // Before the agent, libmemusage asks for a header more, and hands out what follows it.
      let missing = record.blocks.filter { block in
        guard isBefore else { return !found.contains("\(block.base) \(block.size)") }
        // A block of no bytes begins where its header ends.
        let before = block.size == 0 ? segment.allocation(containing: block.base - 1) : nil
        guard let holder = segment.allocation(containing: block.base) ?? before else { return true }
        return holder.base + holder.size < block.base + block.size
      }
      #expect(missing.isEmpty, "\(missing.count) missing")
      #expect(segment.unindexed == [] && segment.counter("unknown_frees") == 0)
    }

    @Test(
      "below another allocator, blocks of the C library's own are indexed beside that allocator's",
      arguments: [Allocator.jemalloc, .tcmalloc, .mimalloc])
    func beside(_ allocator: Allocator) throws {
      try allocator.require()
      let program = try Programs.path("beside.c")
      let plugin = try Programs.path("direct_plugin.c", options: ["-shared", "-fPIC"])
      let directory = try TestDirectory()
      let process = try start([program, plugin], in: directory, preload: { "\($0):\(allocator.library!)" })
      let said = try Said(process)
      try check(said, of: process, in: directory, sites: ["main", "plugin_allocate"])
      let answers = try Tool.objects(
        Tool.control(["query", "\(process.pid)", "--json"] + said.live.map { String($0.address) }, in: directory)
          .output)
      for (answer, block) in zip(answers, said.live) {
        let prefix = block.name == "plugin" ? "libc.so" : allocator.modulePrefix
        #expect((answer["allocator"] as? String)?.hasPrefix(prefix) == true, "\(block): \(answer)")
      }
    }
  }
}
