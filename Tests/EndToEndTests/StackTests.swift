// SPDX-License-Identifier: Apache-2.0
// Call stacks in difficult places: the program is undisturbed, and what is recorded is what libgcc's unwinder said
// there.

import Foundation
import IndexReader
import SystemAccess
import TestSupport
import Testing

extension EndToEnd {
  @Suite("stacks")
  struct Stacks {
    /// The notes of a program of stacks.h about one block.
    private struct Noted {
      enum Expectation: UInt64 {
        case whole = 1
        case site, prefix, begins, any
      }
      var block: UInt64
      var expectation: Expectation
      var addresses: [UInt64]

      static func read(_ path: String) throws -> [Noted] {
        let words = try Data(contentsOf: URL(fileURLWithPath: path)).withUnsafeBytes {
          Array($0.bindMemory(to: UInt64.self))
        }
        var noted: [Noted] = []
        var index = 0
        while index + 3 <= words.count {
          let end = index + 3 + Int(words[index + 2])
          guard let expectation = Expectation(rawValue: words[index + 1]), end > index + 3, end <= words.count else {
            throw HarnessError("\(path) is no record: word \(index)")
          }
          noted.append(Noted(block: words[index], expectation: expectation, addresses: Array(words[index + 3..<end])))
          index = end
        }
        return noted
      }

      /// The fault of the recorded stack; nil if there is none.
      func fault(_ stack: IndexReader.Stack, depthLimit: Int) -> String? {
        // The truth was taken by the call right before the malloc.
        let largestDistance: UInt64 = 4096
        guard let site = stack.addresses.first, max(site, addresses[0]) - min(site, addresses[0]) < largestDistance
        else {
          return "not the call site"
        }
        let found = stack.addresses.dropFirst()
        let truth = addresses.dropFirst()
        switch expectation {
        case .any: return nil
        case .site: return found.isEmpty && stack.truncation == .unwinder ? nil : "more than the call site"
        case .begins: return found.starts(with: truth) ? nil : "does not begin with the truth"
        case .prefix:
          guard truth.starts(with: found) else { return "differs" }
          return found.count == truth.count || stack.truncation != nil ? nil : "ends early and does not say so"
        case .whole:
          guard truth.starts(with: found) else { return "differs" }
          let uncut = depthLimit + Stacks.step(depthLimit)
          if addresses.count >= uncut {
            return (depthLimit..<uncut).contains(stack.addresses.count) && stack.truncation == .depthLimit
              ? nil : "not cut at the limit"
          }
          return found.count == truth.count && stack.truncation == nil ? nil : "ends early"
        }
      }
    }

    /// The index's word about one noted block.
    private struct Recorded {
      var size: UInt64
      var stack: IndexReader.Stack
    }

    /// The number of frames that are cut off a stack is a multiple of this.
    private static func step(_ depthLimit: Int) -> Int { max(64, depthLimit) }

    /// Runs a program plain, under the agent, and under the agent with each stack captured twice, and compares all it
    /// noted. Returns what was recorded in the second of these.
    @discardableResult
    private func check(
      _ command: [String], environment: [String: String] = [:], depthLimit: Int = 128, atLeast: Int = 10,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> [Recorded] {
      let plain = try ChildProcess.run(command)
      try #require(plain.ending == .exit(0), "plain: \(plain.ending) \(plain.errors)", sourceLocation: sourceLocation)
      let runs = try ["full", "check"].map {
        try compare(
          command, plain, environment.merging(["ALLOCS_STACKS": $0]) { $1 }, depthLimit: depthLimit, atLeast: atLeast,
          sourceLocation)
      }
      return runs[0]
    }

    private func compare(
      _ command: [String], _ plain: Outcome, _ environment: [String: String], depthLimit: Int, atLeast: Int,
      _ sourceLocation: SourceLocation
    ) throws -> [Recorded] {
      let directory = try TestDirectory()
      var variables = try Installation.agentEnvironment(directory.path).merging(environment) { $1 }
      variables["STACKS_RECORD"] = directory.file("record")
      let indexed = try ChildProcess.run(command, environment: variables)
      #expect(indexed == plain, sourceLocation: sourceLocation)
      guard indexed.ending == .exit(0) else { return [] }

      let noted = try Noted.read(directory.file("record"))
      #expect(noted.count >= atLeast, sourceLocation: sourceLocation)
      // A shell that sets limits first leaves no index of its own: it becomes the program.
      let paths = try directory.segments()
      try #require(paths.count == 1, "\(paths)", sourceLocation: sourceLocation)
      let segment = try Segment(path: paths[0])
      if environment["ALLOCS_STACKS"] == "check" {
        Self.expectNoDifference(segment, atLeast: UInt64(noted.count), sourceLocation)
      }
      var recorded: [Recorded] = []
      var faults: [String] = []
      for block in noted {
        guard let allocation = segment.allocation(containing: block.block), allocation.base == block.block,
          let context = segment.context(allocation.context)
        else {
          faults.append("block \(block.block) is not in the index")
          continue
        }
        let stack = segment.stack(ofNode: context.node)
        recorded.append(Recorded(size: allocation.size, stack: stack))
        if let fault = block.fault(stack, depthLimit: depthLimit) {
          let hexadecimal = { (addresses: [UInt64]) in addresses.prefix(12).map { String($0, radix: 16) } }
          faults.append(
            "\(fault): \(hexadecimal(stack.addresses)) \(String(describing: stack.truncation)) instead of"
              + " \(hexadecimal(block.addresses))")
        }
      }
      #expect(
        faults.isEmpty, "\(faults.count) of \(noted.count): \(faults.prefix(3).joined(separator: "; "))",
        sourceLocation: sourceLocation)
      return recorded
    }

    private static func expectNoDifference(
      _ segment: borrowing Segment, atLeast: UInt64, _ sourceLocation: SourceLocation
    ) {
      let (checked, differing) = counts(segment)
      #expect(checked >= atLeast, sourceLocation: sourceLocation)
      #expect(differing == 0, "of \(checked)", sourceLocation: sourceLocation)
    }

    /// Stacks that were captured twice, and those that were not the same both times.
    private static func counts(_ segment: borrowing Segment) -> (checked: UInt64, differing: UInt64) {
      let counters = segment.counters
      func value(_ name: String) -> UInt64 { counters.first { $0.name == name }?.value ?? 0 }
      return (value("stacks_checked"), value("stacks_differing"))
    }

    private static let builds = [
      [], ["-fno-omit-frame-pointer"], ["-O0"], ["-O3"], ["-mstackrealign", "-mavx2"],
    ]

    // MARK: one stack

    @Test("frames of every kind, in any order", arguments: builds)
    func frames(options: [String]) throws {
      try check([Programs.path("stacks.c", options: options), "frames"], atLeast: 5000)
    }

    @Test("frames of 300 KB and of 4 MiB", arguments: builds)
    func huge(options: [String]) throws { try check([Programs.path("stacks.c", options: options), "huge"]) }

    @Test("after a longjmp out of deep frames")
    func longjmp() throws { try check([Programs.path("stacks.c"), "longjmp"], atLeast: 1000) }

    @Test("100,000 frames deep: the innermost ones, cut at the limit", arguments: [1, 7, 128])
    func recursion(limit: Int) throws {
      let recorded = try check(
        [Programs.path("stacks.c"), "recursion"], environment: ["ALLOCS_DEPTH": "\(limit)"], depthLimit: limit)
      #expect(recorded.contains { $0.stack.truncation == .depthLimit })
    }

    @Test("a stack that was cut says how many frames are missing, to 1 in 64", arguments: [1, 30, 128])
    func depths(limit: Int) throws {
      let recorded = try check(
        [Programs.path("stacks.c"), "depths"], environment: ["ALLOCS_DEPTH": "\(limit)"], depthLimit: limit,
        atLeast: 1200)
      let whole = recorded.filter { $0.stack.truncation == nil }
      // The frames of main and its callers.
      let outer = whole.first.map { $0.stack.addresses.count - Int($0.size) } ?? Self.outerFrames
      #expect(outer == Self.outerFrames && whole.allSatisfy { $0.stack.addresses.count == Int($0.size) + outer })
      for block in recorded where block.stack.truncation == .depthLimit {
        let missing = Int(block.size) + outer - block.stack.addresses.count
        let said = Int(block.stack.framesCut ?? 0)
        #expect(missing % Self.step(limit) == 0 && said <= missing && (missing - said) * 64 <= missing)
      }
      #expect(recorded.count { $0.stack.truncation == .depthLimit } + whole.count == recorded.count)
    }
    /// main, __libc_start_call_main, __libc_start_main and _start.
    private static let outerFrames = 4

    @Test("on a stack without a limit, and on a small one", arguments: ["unlimited", "512"])
    func limits(limit: String) throws {
      let program = try Programs.path("stacks.c")
      try check(["/bin/sh", "-c", "ulimit -s \(limit) && exec \(program) longjmp"], atLeast: 1000)
    }

    @Test(
      "exceptions through frames of deep templates", arguments: [[], ["-O0"], ["-O3"], ["-fno-omit-frame-pointer"]])
    func exceptions(options: [String]) throws {
      try check([Programs.path("stacks_exceptions.cpp", options: options)], atLeast: 5000)
    }

    // MARK: how modules are linked

    private static let linkings = [
      ["-Wl,-z,max-page-size=0x200000"],
      ["-no-pie", "-Wl,-z,max-page-size=0x200000"],
      ["-Wl,-z,max-page-size=0x200000", "-Wl,-z,noseparate-code"],
      ["-fuse-ld=gold", "-Wl,-z,max-page-size=0x10000"],
      ["-Wl,--no-eh-frame-hdr"],
      ["-no-pie", "-Wl,--no-eh-frame-hdr", "-s"],
      ["-fuse-ld=gold", "-Wl,--no-eh-frame-hdr", "-Wl,-z,max-page-size=0x200000"],
    ]

    @Test("room between segments, and call frame information without a table: the same stack", arguments: linkings)
    func roomBetweenSegments(options: [String]) throws {
      let forLibraries = ["-fPIC", "-shared", "-DGAPS_LIBRARY"] + options.filter { $0 != "-no-pie" }
      let linked = try Programs.path("stacks_gaps.c", options: forLibraries)
      let loaded = try Programs.path("stacks_gaps.c", options: forLibraries + ["-O1"])
      let recorded = try check([Programs.path("stacks_gaps.c", options: options + [linked]), loaded], atLeast: 15)
      // Stacks of constructors end in the dynamic linker's first function, stacks of threads in clone.
      #expect(recorded.allSatisfy { $0.stack.truncation == nil })
    }

    @Test("frames of every kind, with room between segments", arguments: linkings.prefix(4))
    func framesApart(options: [String]) throws {
      try check([Programs.path("stacks.c", options: options), "frames"], atLeast: 5000)
    }

    // MARK: code without information

    @Test("code without call frame information and wild values of rbp end the stack, not the program")
    func withoutInformation() throws {
      let options = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]
      try check([Programs.path("stacks_code.c", options: options), "x"], atLeast: 1000)
    }

    @Test("code without call frame information is followed by its frame pointers, also when made at run time")
    func framePointers() throws {
      let options = [
        "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-omit-frame-pointer", "-DSTACKS_POINTERS",
      ]
      try check([Programs.path("stacks_code.c", options: options), "x"], atLeast: 1000)
    }

    // MARK: signals

    @Test(
      "signal handlers that allocate, on the thread's stack and on alternate ones", arguments: ["signals", "alternate"])
    func signals(kind: String) throws { try check([Programs.path("stacks.c"), kind], atLeast: 100) }

    @Test("a timer that interrupts anything, a thousand times a second", arguments: ["timer", "timer-alternate"])
    func timer(kind: String) throws {
      let stacks = try check([Programs.path("stacks.c"), kind], atLeast: 200).map(\.stack)
      // Stacks may end where a prologue is half done, and there only.
      #expect(stacks.count { $0.truncation == nil } * 100 >= stacks.count * 95)
    }

    /// Runs small_stacks.c, linked so that its calls are bound at the start.
    private func onSmallStack(
      _ flags: String, _ size: Int, _ what: String, _ variables: [String: String]
    ) throws -> Outcome {
      let program = try Programs.path("small_stacks.c", options: ["-Wl,-z,now"])
      return try ChildProcess.run([program, flags, "\(size)", what], environment: variables)
    }
    /// SS_AUTODISARM.
    private static let autoDisarm = "0x80000000"

    @Test("a handler on a stack that the kernel forgets meanwhile: the whole stack", arguments: ["0", autoDisarm])
    func disarmed(flags: String) throws {
      for (size, what) in [(8192, "malloc"), (65536, "malloc"), (65536, "calloc"), (1 << 20, "realloc")] {
        let directory = try TestDirectory()
        let outcome = try onSmallStack(flags, size, what, Installation.agentEnvironment(directory.path))
        let pid = (try directory.segments()[0] as NSString).lastPathComponent.prefix { $0 != "." }
        #expect(outcome.ending == .exit(0))
        let answer = try Tool.control(
          ["query", "--direct", String(pid), String(outcome.output.dropLast())], in: directory
        ).output
        for function in ["handler_allocates", "handler", "interrupted_function", "main"] {
          #expect(answer.contains(function), "\(size) \(what): \(answer)")
        }
      }
    }

    @Test(
      "on an alternate stack the agent needs 320 bytes at most beyond what the call itself takes",
      arguments: ["0", autoDisarm], ["malloc", "calloc", "realloc", "memalign", "mmap"])
    func smallest(flags: String, what: String) throws {
      /// The smallest alternate stack that is enough, in steps of 16 bytes.
      func enough(_ variables: [String: String]) throws -> Int {
        var tooSmall = 1024, enough = 16384
        while enough - tooSmall > 16 {
          let size = (tooSmall + enough) / 32 * 16
          let outcome = try onSmallStack(flags, size, what, variables)
          if outcome.ending == .exit(0) { enough = size } else { tooSmall = size }
        }
        return enough
      }
      let plain = try enough([:])
      #expect(plain < 16384)
      let directory = try TestDirectory()
      let variables = try Installation.agentEnvironment(directory.path)
      for settings in [[:], ["ALLOCS_STACKS": "site"], ["ALLOCS_EVENTS": "1"]] {
        let indexed = try enough(variables.merging(settings) { $1 })
        #expect(indexed <= plain + 320, "\(settings)")
      }
    }

    // MARK: other stacks

    @Test(
      "stacks of the program's own making give the call site, and whole stacks return with the thread's own",
      arguments: ["contexts", "contexts-in-threads", "by-hand", "carved", "copied", "clone", "vfork"])
    func switched(kind: String) throws { try check([Programs.path("stacks_switched.c"), kind]) }

    @Test(
      "threads with stacks of any size, the smallest and the program's own too", arguments: ["threads", "own-stacks"])
    func threads(kind: String) throws { try check([Programs.path("stacks_switched.c"), kind], atLeast: 400) }

    // MARK: captured twice

    @Test("a stack that is not what it was recorded as is counted")
    func altered() throws {
      let directory = try TestDirectory()
      let variables = try Installation.agentEnvironment(directory.path).merging(["ALLOCS_STACKS": "check"]) { $1 }
      let program = try Programs.path("stacks_altered.c")
      let outcome = try ChildProcess.run([program], environment: variables)
      try #require(outcome.ending == .exit(0), "\(outcome.errors)")
      // 100 blocks before it changes a node of their stack, 10 after.
      let path = try directory.segments()[0]
      let (checked, differing) = try Self.counts(Segment(path: path))
      #expect(checked >= 110 && differing == 10)
      let pid = (path as NSString).lastPathComponent.prefix { $0 != "." }
      let information = try Tool.control(["info", "--direct", String(pid)], in: directory)
      #expect(information.output.contains("10 stacks differed the second time"), "\(information)")
    }

    @Test(
      "real programs have the same stacks twice",
      arguments: ["python3", "sqlite3", "gcc", "concurrent.swift", "templates.cpp", "words.cpp"])
    func twice(name: String) throws {
      let work = try TestDirectory()
      let command =
        switch name {
        case "python3": ["python3", Programs.source("documents.py")]
        case "sqlite3": ["sqlite3", "-bail", "-init", Programs.source("tables.sql"), ":memory:", ".quit"]
        case "gcc": ["gcc", "-D_GNU_SOURCE", "-O2", "-c", Programs.source("battery.c"), "-o", work.file("object")]
        default: [try Programs.path(name)]
        }
      let directory = try TestDirectory()
      let variables = try Installation.agentEnvironment(directory.path).merging([
        "ALLOCS_STACKS": "check", "PYTHONMALLOC": "malloc",
      ]) { $1 }
      let outcome = try ChildProcess.run(command, environment: variables)
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      let segments = try directory.segments().map { path throws(Complaint) in try Self.counts(Segment(path: path)) }
      #expect(segments.reduce(0) { $0 + $1.checked } > 10000)
      #expect(segments.allSatisfy { $0.differing == 0 }, "\(segments)")
    }

    @Test("redis-server under load has the same stacks twice")
    func redisTwice() throws {
      let directory = try TestDirectory()
      let redis = try RedisServer(
        environment: Installation.agentEnvironment(directory.path).merging(["ALLOCS_STACKS": "check"]) { $1 })
      try redis.load(["-n", "5000", "-r", "1000", "-t", "set,lpush,hset,sadd,zadd"])
      try redis.shutDown()
      try Self.expectNoDifference(Segment(path: directory.segments()[0]), atLeast: 10000, #_sourceLocation)
    }

    @Test(
      "a stack from which several functions allocate in turn: each block has its own",
      arguments: ["full", "site", "check"])
    func functionsInTurn(stacks: String) throws {
      let program = try RecordingProgram(
        [Programs.path("functions_in_turn.c")], environment: ["ALLOCS_STACKS": stacks])
      let record = try program.reach(0)
      let segment = try program.openSegment()
      var functions: [UInt64: String] = [:]
      for block in segment.allAllocations() {
        functions[block.base] = segment.context(block.context)?.function?.unescaped
      }
      #expect(record.blocks.count == 6000)
      let wrong = record.blocks.filter { functions[$0.base] != record.sites[$0.site]?.function }
      #expect(wrong.isEmpty, "\(wrong.count) of \(record.blocks.count)")
      try program.proceed()
      try program.finish()
    }

    // MARK: libraries

    private func libraries() throws -> [String] {
      // The last two have their calls at the same place, and frames of other sizes.
      try ["16", "200", "4000"].map {
        try Programs.path("stacks_library.c", options: ["-fPIC", "-shared", "-DLIBRARY_FRAME=\($0)"])
      }
    }

    @Test("libraries at each other's addresses, also unloaded by libc itself", arguments: ["plainly", "quietly"])
    func loader(kind: String) throws {
      try check([Programs.path("stacks_loader.c"), "9", kind] + libraries(), atLeast: 90)
      try check([Programs.path("stacks_loader.c"), "9", kind] + libraries().suffix(2), atLeast: 90)
    }
  }
}
