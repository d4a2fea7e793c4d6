// SPDX-License-Identifier: Apache-2.0
// Programs that the agent is linked into: every linker, every kind of executable, with libc's allocator and with
// others.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the agent inside an executable")
  struct Kit {
    /// How an executable is linked.
    struct Build: CustomTestStringConvertible, Sendable {
      enum Tools: String, CaseIterable {
        case gcc = "gcc, ld.bfd"
        case clang = "clang, ld.lld"
        var command: [String] {
          switch self {
          case .gcc: ["g++", "-fuse-ld=bfd"]
          case .clang: ["clang++", "-fuse-ld=lld"]
          }
        }
      }
      enum Form: String, CaseIterable {
        case independent = "-pie"
        case fixed = "-no-pie"
        case staticFixed = "-static"
        case staticIndependent = "-static-pie"
        var isStatic: Bool { self == .staticFixed || self == .staticIndependent }
      }
      enum Below: String, CaseIterable {
        case libc = "libc"
        case own = "an allocator of its own"
        case jemalloc = "jemalloc"
        var options: [String] {
          switch self {
          case .libc: []
          case .own: [Programs.source("own_allocator.cpp")]
          case .jemalloc: ["-l:libjemalloc_pic.a"]
          }
        }
      }
      var tools: Tools
      var form: Form
      var below: Below
      var testDescription: String { "\(tools.rawValue), \(form.rawValue), \(below.rawValue)" }

      static let all = Tools.allCases.flatMap { tools in
        Form.allCases.flatMap { form in Below.allCases.map { Build(tools: tools, form: form, below: $0) } }
      }

      /// Links a program of the test's directory with the kit.
      func link(_ sources: [String], options: [String] = [], into directory: TestDirectory) throws -> String {
        let program = directory.file("program")
        let outcome = try ChildProcess.run(
          tools.command + Kit.flags + [form.rawValue] + sources + below.options + options + Kit.libraries.get()
            + ["-lm", "-o", program])
        try #require(outcome.ending == .exit(0), "\(outcome.output)\(outcome.errors)")
        #expect(outcome.errors == "", "a warning of the linker")
        return program
      }
    }

    static let flags = ["-D_GNU_SOURCE", "-O2", "-g", "-fno-builtin", "-pthread", "-std=c++17"]
    /// The options to link with, as pkg-config says them.
    static let libraries = Result<[String], any Error> {
      let archive = try Installation.path(of: "liballocs_inexe.a")
      let outcome = try ChildProcess.run(
        ["pkg-config", "--libs", "allocs-inexe"],
        environment: ["PKG_CONFIG_PATH": (archive as NSString).deletingLastPathComponent])
      guard outcome.ending == .exit(0) else { throw HarnessError(outcome.errors) }
      return outcome.output.split(whereSeparator: \.isWhitespace).map(String.init)
    }

    /// A program that allocates, in C++.
    private static func small(_ directory: TestDirectory) throws -> String {
      try directory.write("int main() { delete new int(1); return 0; }", to: "small.cpp")
    }

    /// linked.cpp, and its library: shared where it can be.
    private func linked(_ build: Build, in directory: TestDirectory) throws -> String {
      let library = Programs.source("linked_library.cpp")
      guard !build.form.isStatic else {
        return try build.link([Programs.source("linked.cpp"), library], into: directory)
      }
      let shared = directory.file("liblinked.so")
      let outcome = try ChildProcess.run(
        build.tools.command + Self.flags + ["-fPIC", "-shared", library, "-o", shared])
      try #require(outcome.ending == .exit(0), "\(outcome.errors)")
      return try build.link([Programs.source("linked.cpp"), shared], into: directory)
    }

    @Test("every call of the executable and of a library is recorded once", arguments: Build.all)
    func truth(build: Build) throws {
      let directory = try TestDirectory()
      let path = try linked(build, in: directory)
      let arguments = build.below == .own ? [] : ["fork"]
      try inactive([path, "3", "6000"] + arguments)
      try compare(RecordingProgram([path, "3", "60000"] + arguments, underAgent: false, linked: true), build)
    }

    /// Runs as it would without the agent, and leaves nothing.
    private func inactive(_ command: [String]) throws {
      let program = try RecordingProgram(command, underAgent: false)
      for checkpoint in 0...2 {
        _ = try program.reach(checkpoint)
        let maps = try String(contentsOfFile: "/proc/\(program.process.pid)/maps", encoding: .utf8)
        #expect(!maps.contains(".seg"))
        try program.proceed()
      }
      try program.finish()
      #expect(try program.directory.segments().isEmpty)
    }

    private func compare(_ program: RecordingProgram, _ build: Build) throws {
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      try program.proceed()
      for checkpoint in 1...2 {
        let record = try program.reach(checkpoint)
        let isLibc = build.below == .libc && !build.form.isStatic
        let comparison = Comparison(
          record: record, baseline: baseline, allocatorPrefix: isLibc ? "libc.so" : "program", looksUp: false)
        let differences = comparison.differences(in: segment)
        #expect(differences.isEmpty, "check point \(checkpoint): \(differences)")
        #expect(segment.unindexed == [])
        #expect(segment.counter("unknown_frees") == 0)
        #expect(segment.counter("entries_hooked") == 0)
        #expect(segment.totals().count == UInt64(record.blocks.count + baseline.count))
        #expect(segment.balance == Int64(record.blocks.count + baseline.count))
        try program.proceed()
      }
      try program.finish()
      #expect(try program.directory.segments().count == 1, "a child of fork has no index")
    }

    @Test(
      "a preloaded agent stands aside, with and without ALLOCS",
      arguments: [Build.Below.libc, .own], [[:], ["ALLOCS": "1"]])
    func preloaded(below: Build.Below, environment: [String: String]) throws {
      let directory = try TestDirectory()
      for tools in Build.Tools.allCases {
        let build = Build(tools: tools, form: .independent, below: below)
        try compare(RecordingProgram([linked(build, in: directory), "2", "50000"], environment: environment), build)
      }
    }

    @Test("another allocator that is preloaded, or linked dynamically, is the one below", arguments: [true, false])
    func shared(isPreloaded: Bool) throws {
      try Allocator.jemalloc.require()
      let directory = try TestDirectory()
      let build = Build(tools: .gcc, form: .independent, below: .libc)
      let path = try build.link(
        [Programs.source("linked.cpp"), Programs.source("linked_library.cpp")],
        options: isPreloaded ? [] : ["-Wl,--no-as-needed", "-l:libjemalloc.so.2"], into: directory)
      let program = try RecordingProgram(
        [path, "2", "20000"], environment: isPreloaded ? ["LD_PRELOAD": "libjemalloc.so.2"] : [:], underAgent: false,
        linked: true)
      _ = try program.reach(0)
      let segment = try program.openSegment()
      let baseline = segment.allAllocations()
      try program.proceed()
      let comparison = Comparison(
        record: try program.reach(1), baseline: baseline, allocatorPrefix: Allocator.jemalloc.modulePrefix)
      let differences = comparison.differences(in: segment)
      #expect(differences.isEmpty, "\(differences)")
      try program.proceed()
      _ = try program.reach(2)
      try program.proceed()
      try program.finish()
    }

    @Test("ALLOCS=0, an empty ALLOCS, and no ALLOCS leave it off", arguments: ["0", "", nil])
    func off(value: String?) throws {
      let directory = try TestDirectory()
      let program = try Build(tools: .gcc, form: .staticFixed, below: .libc).link(
        [Self.small(directory)], into: directory)
      var environment = ["ALLOCS_DIR": directory.path]
      if let value { environment["ALLOCS"] = value }
      #expect(try ChildProcess.run([program], environment: environment).ending == .exit(0))
      #expect(try directory.segments().isEmpty)
    }

    @Test("`allocsctl run` starts it, linked statically or not; a static program without it is told of it")
    func run() throws {
      let directory = try TestDirectory()
      for form in Build.Form.allCases {
        let program = try Build(tools: .gcc, form: form, below: .libc).link(
          [Self.small(directory)], into: directory)
        let outcome = try ChildProcess.run(
          [Installation.path(of: "allocsctl"), "run", "--", program], environment: ["ALLOCS_DIR": directory.path])
        #expect(outcome.ending == .exit(0), "\(outcome.errors)")
        let segments = try directory.segments()
        #expect(segments.count == 1)
        for path in segments { try FileManager.default.removeItem(atPath: path) }
      }
      let plain = directory.file("plain")
      let built = try ChildProcess.run(["g++", "-static", "-O2", Self.small(directory), "-o", plain])
      #expect(built.ending == .exit(0))
      let outcome = try ChildProcess.run([Installation.path(of: "allocsctl"), "run", "--", plain])
      #expect(outcome.ending == .exit(1))
      #expect(
        outcome.errors.contains("statically linked") && outcome.errors.contains("allocs-inexe"), "\(outcome.errors)")
    }

    @Test(
      "operators of the executable's own that go past malloc, and declared functions, are said to be missing",
      arguments: Build.Tools.allCases)
    func limits(tools: Build.Tools) throws {
      for below in [Build.Below.jemalloc, .libc] {
        let directory = try TestDirectory()
        // A pair that compilers don't leave out.
        let source = try directory.write(
          "int *volatile kept; int main() { kept = new int(1); delete kept; return 0; }", to: "pair.cpp")
        let program = try Build(tools: tools, form: .independent, below: below).link([source], into: directory)
        let outcome = try ChildProcess.run(
          [program],
          environment: [
            "ALLOCS": "1", "ALLOCS_DIR": directory.path, "ALLOCS_VERBOSE": "1", "ALLOCS_SUBALLOC": "a: strdup(Z)p",
          ])
        #expect(outcome.ending == .exit(0))
        let segment = try Segment(path: try #require(directory.segments().first))
        #expect(segment.counter("entries_refused") == (below == .libc ? 0 : 1))
        #expect(outcome.errors.contains("own operators new and delete") == (below != .libc), "\(outcome.errors)")
        #expect(segment.counter("declarations_refused") == 1)
        #expect(outcome.errors.contains("the functions of ALLOCS_SUBALLOC"), "\(outcome.errors)")
      }
    }

    @Test("no name of the kit's inside is visible, and a link needs nothing of Swift")
    func names() throws {
      let archive = try Installation.path(of: "liballocs_inexe.a")
      let outcome = try ChildProcess.run(["nm", "--defined-only", "--extern-only", archive])
      for line in outcome.output.split(separator: "\n") {
        guard let name = line.split(separator: " ").last, line.split(separator: " ").count == 3 else { continue }
        let isOurs = name.hasPrefix("allocs_") || name.hasPrefix("__wrap_")
        let isWeak = line.contains(" W ")
        #expect(isOurs || isWeak || name.contains("@"), "\(line)")
      }
      let directory = try TestDirectory()
      let program = directory.file("program")
      let link = try ChildProcess.run(
        ["gcc", "-O2", "-fno-builtin", "-pthread", Programs.source("churn.c")] + Self.libraries.get() + [
          "-o", program,
        ],
        environment: ["PATH": "/usr/bin:/bin"])
      #expect(link.ending == .exit(0), "\(link.errors)")
    }

    @Test("linked twice it is there once; in a library it is refused by the linker")
    func misuse() throws {
      let directory = try TestDirectory()
      let libraries = try Self.libraries.get()
      let build = Build(tools: .gcc, form: .independent, below: .libc)
      _ = try build.link([Self.small(directory)], options: libraries, into: directory)
      for tools in Build.Tools.allCases {
        let outcome = try ChildProcess.run(
          tools.command + ["-shared", "-fPIC", Programs.source("linked_library.cpp")] + libraries
            + ["-o", directory.file("library.so")])
        #expect(outcome.ending != .exit(0))
      }
    }
  }
}
