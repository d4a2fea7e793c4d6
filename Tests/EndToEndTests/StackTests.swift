// Call stacks in difficult places: the program is undisturbed, and what is recorded is what libgcc's unwinder said there.

import Foundation
import IndexReader
import Testing

extension EndToEnd {
  @Suite("stacks")
  struct Stacks {
    /// What a program of stacks.h noted about one block.
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

      /// What is wrong with the recorded stack; nil if nothing.
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
          if addresses.count > depthLimit {
            return stack.addresses.count == depthLimit && stack.truncation == .depthLimit ? nil : "not cut at the limit"
          }
          return found.count == truth.count && stack.truncation == nil ? nil : "ends early"
        }
      }
    }

    /// Runs a program plain and under the agent, and compares all it noted. Returns the recorded stacks.
    @discardableResult
    private func check(
      _ command: [String], environment: [String: String] = [:], depthLimit: Int = 128, atLeast: Int = 10,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> [IndexReader.Stack] {
      let directory = try TestDirectory()
      let plain = try ChildProcess.run(command)
      try #require(plain.ending == .exit(0), "plain: \(plain.ending) \(plain.errors)", sourceLocation: sourceLocation)
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
      var stacks: [IndexReader.Stack] = []
      var faults: [String] = []
      for block in noted {
        guard let allocation = segment.allocation(containing: block.block), allocation.base == block.block,
          let context = segment.context(allocation.context)
        else {
          faults.append("block \(block.block) is not in the index")
          continue
        }
        let stack = segment.stack(ofNode: context.node)
        stacks.append(stack)
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
      return stacks
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
      let stacks = try check(
        [Programs.path("stacks.c"), "recursion"], environment: ["ALLOCS_DEPTH": "\(limit)"], depthLimit: limit)
      #expect(stacks.contains { $0.truncation == .depthLimit && $0.addresses.count == limit })
    }

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
      let stacks = try check([Programs.path("stacks.c"), kind], atLeast: 200)
      // Stacks may end where a prologue is half done, and there only.
      #expect(stacks.count { $0.truncation == nil } * 100 >= stacks.count * 95)
    }

    // MARK: other stacks

    @Test(
      "stacks of the program's own making give the call site, and whole stacks return with the thread's own",
      arguments: ["contexts", "contexts-in-threads", "by-hand", "carved", "copied", "clone", "vfork"])
    func switched(kind: String) throws { try check([Programs.path("stacks_switched.c"), kind]) }

    @Test(
      "threads with stacks of any size, the smallest and the program's own too", arguments: ["threads", "own-stacks"])
    func threads(kind: String) throws { try check([Programs.path("stacks_switched.c"), kind], atLeast: 400) }

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
