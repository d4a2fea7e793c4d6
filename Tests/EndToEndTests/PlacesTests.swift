// SPDX-License-Identifier: Apache-2.0
// Every address answers: variables, stacks, what the kernel put there, and what was mapped by whom, against what the
// program itself says of its addresses (Programs/places.c).

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("places")
  struct Places {
    /// A program that tells its addresses, such as places.c, under the agent.
    final class Program {
      let directory = try! TestDirectory()
      let process: ChildProcess
      private(set) var addresses: [String: UInt64] = [:]
      var pid: String { "\(process.pid)" }

      init(
        _ source: String = "places.c", _ arguments: [String] = [Programs.source("places.c")], stacks: String = "full",
        options: [String] = []
      ) throws {
        var environment = ChildProcess.baseEnvironment.merging(
          try Installation.agentEnvironment(directory.path)
        ) { $1 }
        environment["ALLOCS_STACKS"] = stacks
        environment["PLACES_VARIABLE"] = "its value"
        process = try ChildProcess(
          [Programs.path(source, options: options)] + arguments, environment: environment, conversing: true)
        try listen()
      }

      /// Takes the addresses that it tells until it is ready.
      func listen() throws {
        for line in try process.readLines(until: "ready").dropLast() {
          guard let blank = line.lastIndex(of: " "), let address = UInt64(line[line.index(after: blank)...]) else {
            throw HarnessError("\(process.name) said '\(line)'")
          }
          addresses[String(line[..<blank])] = address
        }
      }

      func address(_ name: String) throws -> UInt64 { try #require(addresses[name], "\(name)") }

      func ask(_ name: String, plus offset: UInt64 = 0, _ options: [String] = []) throws -> [String: Any] {
        let address = try address(name) + offset
        let outcome = try Tool.control(["query", pid, "\(address)", "--json"] + options, in: directory)
        guard outcome.ending == .exit(0) else { throw HarnessError("query failed: \(outcome.errors)") }
        return try #require(try Tool.objects(outcome.output).first)
      }

      func end() throws {
        process.signal(SIGKILL)
        _ = try process.wait()
      }
    }

    private func field(_ answer: [String: Any], _ path: String...) -> String? {
      var value: Any? = answer
      for name in path { value = (value as? [String: Any])?[name] }
      return value.map { "\($0)" }
    }

    private static let variables: [(name: String, path: String, type: String)] = [
      ("server", "server.port", "int"), ("server.clients.len", "server.clients.len", "long unsigned int"),
      ("server.clients.table[2].next", "server.clients.table[2].next", "struct client *"),
      ("server.clients.table[1].name[5]", "server.clients.table[1].name[5]", "char"),
      ("server.value", "server.value.integer", "long int"), ("server.tail", "server.tail", "char"),
      ("server.anonymous_one", "server.anonymous_one", "int"), ("server.flag_a", "server.flag_a", "unsigned int : 3"),
      ("table[3]", "table[3]", "struct client *"), ("matrix[2][4]", "matrix[2][4]", "int"),
      ("main::inside_function[1]", "main::inside_function[1]", "int"),
    ]

    @Test(
      "variables answer with their member, type and declaration; also after the process died",
      arguments: [
        [],
        // Room between the segments: to the dynamic linker, several modules.
        ["-Wl,-Tdata=0x40000"],
      ])
    func variables(options: [String]) throws {
      let program = try Program(options: options)
      func check(_ state: String) throws {
        for (name, path, type) in Self.variables {
          let answer = try program.ask(name)
          #expect(answer["kind"] as? String == "static", "\(state) \(name)")
          #expect(field(answer, "variable", "path") == path, "\(state) \(name)")
          #expect(field(answer, "variable", "type") == type, "\(state) \(name)")
          #expect(field(answer, "variable", "file")?.hasSuffix("places.c") == true, "\(state) \(name)")
        }
        let value = try program.ask("server.value", plus: 2)
        #expect(field(value, "variable", "path") == "server.value.integer" && field(value, "variable", "offset") == "2")
        let others = (value["variable"] as? [String: Any])?["alternatives"] as? [String]
        #expect(others == ["server.value.real", "server.value.halves.high"])
        let padding = try program.ask("server.tail", plus: 1)
        #expect(field(padding, "variable", "path") == "server" && field(padding, "variable", "padding") == "1")
        let code = try program.ask("code")
        #expect(code["kind"] as? String == "static" && code["symbol"] as? String == "map_for_test")
        #expect((code["file"] as? String)?.hasSuffix("places.c") == true && (code["line"] as? Int ?? 0) > 0)
      }
      try check("alive")
      try program.end()
      try check("dead")
    }

    @Test("each thread's own copy of a thread-local variable is told apart")
    func threadLocal() throws {
      let program = try Program()
      let worker = try program.address("worker")
      for (name, path, thread) in [
        ("local_number", "local_number", UInt64(program.process.pid)),
        ("local_client.next", "local_client.next", UInt64(program.process.pid)),
        ("worker/local_number", "local_number", worker),
      ] {
        let answer = try program.ask(name)
        #expect(answer["kind"] as? String == "static" && field(answer, "thread_local") == "1", "\(name)")
        #expect(field(answer, "variable", "path") == path, "\(name)")
        #expect(field(answer, "thread", "id") == "\(thread)", "\(name)")
      }
      #expect(try program.ask("local_number")["section"] as? String == ".tdata")
      #expect(try program.ask("local_client.next")["section"] as? String == ".tbss")
      let descriptor = try program.ask("worker/descriptor")
      #expect(field(descriptor, "part", "kind") == "thread descriptor")
      #expect(field(descriptor, "part", "offset") == "16" && field(descriptor, "thread", "id") == "\(worker)")
    }

    @Test("a thread that has never allocated: its variables, its description and its frames")
    func silentThread() throws {
      let program = try Program()
      let thread = try program.address("silent")
      for options in [[], ["--stop"]] {
        let variable = try program.ask("silent/local_number", options)
        #expect(variable["kind"] as? String == "static" && variable["frame"] == nil, "\(variable)")
        #expect(field(variable, "variable", "path") == "local_number")
        let descriptor = try program.ask("silent/descriptor", options)
        #expect(field(descriptor, "part", "kind") == "thread descriptor")
        let stack = try program.ask("silent/on_stack", options)
        #expect(stack["kind"] as? String == "stack")
        for answer in [variable, descriptor, stack] { #expect(field(answer, "thread", "id") == "\(thread)") }
        if !options.isEmpty { #expect(field(stack, "frame", "variable", "path") == "on_stack", "\(stack)") }
      }
    }

    @Test("what a program mapped beside a stack that it mapped is no stack, though the kernel has one mapping for all")
    func besideStack() throws {
      let program = try Program()
      let stack = try program.ask("beside-stack")
      #expect(stack["kind"] as? String == "stack", "\(stack)")
      #expect(field(stack, "thread", "id") == "\(try program.address("beside"))")
      let page: UInt64 = 4096
      for name in ["beside-below", "beside-above"] {
        let start = try program.address(name) - 7
        try expectMapped(program, name, by: "mmap", at: "map_beside_stack", start: start, size: page)
      }
      // One mapping, or nothing was tried.
      let end = try program.address("beside-above") - 7 + page
      #expect(field(stack, "mapping", "end") == "0x" + String(end, radix: 16))
    }

    @Test("arguments, environment, auxiliary vector, vdso and guard pages are named")
    func kernelParts() throws {
      let program = try Program()
      let argument = try program.ask("argv[1]")
      #expect(argument["kind"] as? String == "stack" && field(argument, "part", "kind") == "argument")
      #expect(field(argument, "part", "name") == "argv[1]" && field(argument, "part", "offset") == "2")
      #expect(field(argument, "part", "text") == Programs.source("places.c"))
      let path = try program.ask("PATH")
      #expect(field(path, "part", "kind") == "environment" && field(path, "part", "name") == "PATH")
      #expect(field(path, "part", "offset") == "6")
      for (name, kind, part) in [
        ("pointer argv[1]", "pointers", "argv[1]"), ("AT_RANDOM", "kernel strings", "AT_RANDOM"),
      ] {
        let answer = try program.ask(name)
        #expect(field(answer, "part", "kind") == kind && field(answer, "part", "name") == part, "\(answer)")
      }
      #expect(field(try program.ask("auxiliary"), "part", "kind") == "auxiliary vector")
      #expect(field(try program.ask("vdso"), "part", "kind") == "vdso")
      let guarded = try program.ask("worker/guard")
      #expect(guarded["kind"] as? String == "mapping" && field(guarded, "part", "kind") == "guard pages")
      #expect(field(guarded, "thread", "id") == "\(try program.address("worker"))")
      let worker = try program.ask("worker/stack")
      #expect(worker["kind"] as? String == "stack" && field(worker, "thread", "id") == field(guarded, "thread", "id"))
    }

    private func expectMapped(
      _ program: Program, _ name: String, by function: String, at site: String, start: UInt64, size: UInt64,
      kind: String = "mapping", sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let answer = try program.ask(name)
      #expect(answer["kind"] as? String == kind, "\(name): \(answer)", sourceLocation: sourceLocation)
      let mapped = try #require(
        answer["mapped_by"] as? [String: Any], "\(name): \(answer)", sourceLocation: sourceLocation)
      #expect(mapped["function"] as? String == function, "\(name)", sourceLocation: sourceLocation)
      #expect(mapped["start"] as? String == "0x" + String(start, radix: 16), "\(name)", sourceLocation: sourceLocation)
      #expect(
        mapped["end"] as? String == "0x" + String(start + size, radix: 16), "\(name)", sourceLocation: sourceLocation)
      #expect(field(mapped, "site", "function") == site, "\(name)", sourceLocation: sourceLocation)
      #expect(field(mapped, "thread", "id") == program.pid, "\(name)", sourceLocation: sourceLocation)
      #expect((mapped["age_seconds"] as? Double).map { $0 < 3600 } == true, sourceLocation: sourceLocation)
    }

    @Test("what was mapped says who mapped it, in parts as later calls left it", arguments: ["full", "site"])
    func mapped(stacks: String) throws {
      let program = try Program(stacks: stacks)
      let hole = try program.address("hole")
      func check() throws {
        let page: UInt64 = 4096
        try expectMapped(
          program, "hole-below", by: "mmap", at: "map_for_test", start: hole - page, size: page)
        try expectMapped(program, "hole-above", by: "mmap", at: "map_for_test", start: hole + page, size: 5 * page)
        try expectMapped(
          program, "moved", by: "mremap", at: "main", start: try program.address("moved") - 100, size: 6 * page)
        try expectMapped(program, "fixed", by: "mmap", at: "main", start: hole - 2 * page, size: page)
        let file = try program.address("file") - 7
        try expectMapped(program, "file", by: "mmap", at: "main", start: file, size: 2 * page)
        let mapped = try #require(try program.ask("file")["mapped_by"] as? [String: Any])
        #expect(mapped["path"] as? String == Programs.source("places.c"))
        #expect(mapped["file_offset"] as? Int == 8192 && mapped["permissions"] as? String == "r--p")
        try expectMapped(
          program, "break", by: "sbrk", at: "grow_for_test", start: try program.address("break") - 9, size: 16384)
      }
      try check()
      for name in ["hole", "moved-from"] {
        let answer = try program.ask(name)
        #expect(answer["kind"] as? String == "unmapped" && answer["mapped_by"] == nil, "\(name): \(answer)")
        #expect(answer["below"] != nil && answer["above"] != nil)
      }
      // With the process gone, the table is all that is known.
      try program.end()
      try check()
      #expect(try program.ask("hole")["kind"] as? String == "unmapped")
    }

    @Test("a thread that is stopped for a moment tells which frame and variable, and runs on")
    func frames() throws {
      let program = try Program()
      for (name, function, variable) in [
        ("worker/on_stack.name", "inner", "on_stack.name[0]"), ("worker/outer_local", "worker", "outer_local"),
        ("main/in_main", "main", "in_main"),
      ] {
        let began = ContinuousClock.now
        let answer = try program.ask(name, ["--stop"])
        let whole = (ContinuousClock.now - began) / .seconds(1)
        let frame = try #require(answer["frame"] as? [String: Any], "\(name): \(answer)")
        #expect(((frame["functions"] as? [[String: Any]])?.last)?["function"] as? String == function, "\(name)")
        #expect(field(frame, "variable", "path") == variable, "\(name): \(frame)")
        #expect((frame["stopped_seconds"] as? Double).map { $0 > 0 && $0 < whole } == true)
        #expect(try program.ask(name)["frame"] == nil)
      }
      let unused = try program.ask("worker/stack", ["--stop"])
      #expect(field(unused, "frame", "role") == "unused")
      // Its threads go on, and it ends as it would have.
      #expect(try program.process.wait().ending == .exit(0))
    }

    @Test("a thread that can't be stopped: the rest is answered, with the reason and status 1")
    func tracedAlready() throws {
      let program = try Program()
      let address = try program.address("main/in_main")
      // strace is a tracer that holds on: here a small one of our own.
      let tracer = try ChildProcess(
        [Programs.path("tracer.c"), program.pid], environment: ChildProcess.baseEnvironment, conversing: true)
      _ = try tracer.readLines(until: "ready")
      let outcome = try Tool.control(["query", program.pid, "\(address)", "--json", "--stop"], in: program.directory)
      #expect(outcome.ending == .exit(1), "\(outcome.errors)")
      let answer = try #require(try Tool.objects(outcome.output).first)
      #expect(answer["kind"] as? String == "stack" && answer["frame"] == nil)
      #expect((answer["frame_error"] as? String)?.contains("traced by process \(tracer.pid)") == true, "\(answer)")
      tracer.signal(SIGKILL)
      _ = try tracer.wait()
      #expect(
        try Tool.control(
          ["query", program.pid, "\(address)", "--stop", "--socket", "/nowhere"], in: program.directory
        ).ending == .exit(64))
    }

    @Test("the text of each answer fits a screen of 80 columns")
    func text() throws {
      let program = try Program()
      for (name, address) in program.addresses where name != "worker" {
        let outcome = try Tool.control(["query", program.pid, "\(address)", "--stop"], in: program.directory)
        #expect(outcome.ending == .exit(0) && outcome.errors == "", "\(name): \(outcome.errors)")
        let lines = outcome.output.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(lines.count < 24 && lines.allSatisfy { $0.count <= 80 }, "\(name): \(outcome.output)")
      }
    }
  }
}
