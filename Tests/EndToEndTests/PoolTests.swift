// SPDX-License-Identifier: Apache-2.0
// Suballocators: real ones and our own, declared and announced, each against the program's own record; and what is
// refused.

import Foundation
import TestSupport
import Testing

extension EndToEnd {
  @Suite("pools")
  struct Pools {
    struct Kind: CustomTestStringConvertible, Sendable {
      var testDescription: String
      var options: [String]
      /// ALLOCS_SUBALLOC; nil: the program announces its pools.
      var declaration: String?
      /// The name of the blocks' allocator, and its functions.
      var name: String
      var functions: Set<String>
      /// Whether its blocks lie in chunks of malloc; else in mappings of its own.
      var isInChunks = true
    }

    static let kinds = [
      Kind(
        testDescription: "APR pools", options: ["-DAPR", "-I/usr/include/apr-1.0", "-lapr-1"],
        declaration: "apr: apr_palloc(pZ)p, apr_pcalloc(pZ)p, apr_pool_clear(R), apr_pool_destroy(R)", name: "apr",
        functions: ["apr_palloc", "apr_pcalloc"], isInChunks: false),
      Kind(
        testDescription: "talloc", options: ["-DTALLOC", "-ltalloc"],
        declaration: "talloc: talloc_named_const(pZp)p, _talloc_free(Pp)", name: "talloc",
        functions: ["talloc_named_const"]),
      Kind(
        testDescription: "GLib slices",
        options: ["-DSLICE", "-I/usr/include/glib-2.0", "-I/usr/lib/x86_64-linux-gnu/glib-2.0/include", "-lglib-2.0"],
        declaration: "g_slice: g_slice_alloc(Z)p, g_slice_free1(zP)", name: "g_slice", functions: ["g_slice_alloc"]),
      Kind(
        testDescription: "obstacks", options: ["-DOBSTACK"],
        declaration: "obstack: stack_get(pZ)p, stack_free(RP)", name: "obstack", functions: ["stack_get"]),
      Kind(
        testDescription: "pools of its own, by name", options: ["-DOWN"],
        declaration: "pool_get(pZ)p pool_free(pP) pool_clear(R)", name: "pool_get", functions: ["pool_get"]),
      Kind(
        testDescription: "pools of its own, by allocs_pool.h",
        options: ["-DOWN", "-DANNOUNCED", "-I\(Installation.packageDirectory)/include"], declaration: nil,
        name: "own pools", functions: ["pool_get"]),
    ]

    private typealias Place = (name: String, address: UInt64, size: Int)

    /// Starts a program under the agent by `run`; gives it and the places that it named.
    private func start(
      _ path: String, _ arguments: [String] = [], in directory: TestDirectory, _ settings: [String: String]
    ) throws -> (process: ChildProcess, places: [Place]) {
      let environment = ChildProcess.baseEnvironment.merging(
        settings.merging(["ALLOCS_DIR": directory.path]) { $1 }
      ) { $1 }
      let process = try ChildProcess(
        [Installation.path(of: "allocsctl"), "run", "--", path] + arguments, environment: environment,
        conversing: true)
      return (process, try readPlaces(process))
    }

    /// The places that a program names until it is ready.
    private func readPlaces(_ process: ChildProcess) throws -> [Place] {
      try process.readLines(until: "ready").dropLast().map { line in
        let words = line.split(separator: " ")
        guard words.count == 3, let address = UInt64(words[1]), let size = Int(words[2]) else {
          throw HarnessError("\(process.name) said '\(line)'")
        }
        return (String(words[0]), address, size)
      }
    }

    private func ask(
      _ process: ChildProcess, _ addresses: [UInt64], _ options: [String] = [], in directory: TestDirectory
    ) throws -> [[String: Any]] {
      let outcome = try Tool.control(
        ["query", "\(process.pid)", "-", "--json"] + options, in: directory,
        input: addresses.map { "\($0)\n" }.joined())
      guard outcome.ending == .exit(0) else { throw HarnessError("query failed: \(outcome.errors)") }
      return try Tool.objects(outcome.output)
    }

    private func counters(_ process: ChildProcess, in directory: TestDirectory) throws -> [String: Int] {
      let outcome = try Tool.control(["info", "\(process.pid)", "--json"], in: directory)
      return try #require(try Tool.objects(outcome.output).first?["counters"] as? [String: Int])
    }

    private func number(_ value: Any?) -> UInt64? {
      (value as? String).flatMap { UInt64($0.dropFirst(2), radix: 16) }
    }

    @Test("every live block is in the index, in its chunk; none that went back is", arguments: kinds)
    func truth(kind: Kind) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("pools.cpp", options: kind.options)
      let settings = kind.declaration.map { ["ALLOCS_SUBALLOC": $0] } ?? [:]
      let (process, places) = try start(program, in: directory, settings)
      try expectIndexed(places, of: process, kind, in: directory)
    }

    @Test("declared functions of a library that is opened later, closed, and opened again are hooked each time")
    func openedLater() throws {
      let directory = try TestDirectory()
      let library = directory.file("libplugin_pools.so")
      try FileManager.default.copyItem(
        atPath: Programs.path("pool_plugin.c", options: ["-shared", "-fPIC"]), toPath: library)
      let declaration =
        "plugin@libplugin_pools.so: plugin_pool_get(pZ)p, plugin_pool_clear(R), plugin_pool_destroy(R)"
      let kind = Kind(
        testDescription: "pools of a plugin", options: [], declaration: declaration, name: "plugin",
        functions: ["plugin_pool_get"])
      let (process, places) = try start(
        Programs.path("pool_loader.c"), [library], in: directory, ["ALLOCS_SUBALLOC": declaration])
      try expectIndexed(places, of: process, kind, in: directory)
    }

    /// Expects of each place that a program with pools has named that the index says what it is.
    private func expectIndexed(
      _ places: [Place], of process: ChildProcess, _ kind: Kind, in directory: TestDirectory
    ) throws {
      let live = places.filter { $0.name == "live" }
      #expect(live.count > 200)
      let inner = live.map { $0.address + UInt64(max(0, $0.size - 1)) }
      for addresses in [live.map(\.address), inner] {
        for (place, answer) in zip(live, try ask(process, addresses, ["--no-stacks"], in: directory)) {
          let what = "\(place): \(answer)"
          #expect(number(answer["base"]) == place.address, "\(what)")
          #expect(answer["size"] as? Int == place.size, "\(what)")
          #expect(answer["allocator"] as? String == kind.name, "\(what)")
          #expect(kind.functions.contains(answer["function"] as? String ?? ""), "\(what)")
          guard kind.isInChunks else {
            #expect(answer["containers"] == nil && answer["mapping"] != nil, "\(what)")
            continue
          }
          let containers = answer["containers"] as? [[String: Any]] ?? []
          #expect(containers.map { $0["kind"] as? String } == ["chunk"], "\(what)")
          let chunk = containers.first
          let base = number(chunk?["base"]) ?? .max
          #expect(base <= place.address, "\(what)")
          #expect(base + UInt64(chunk?["size"] as? Int ?? 0) >= place.address + UInt64(place.size), "\(what)")
          #expect((chunk?["allocator"] as? String)?.hasPrefix("libc.so") == true, "\(what)")
        }
      }
      // Who asked the pool: the program's own function.
      let stack = try #require(
        try ask(process, [live[0].address], in: directory).first?["stack"] as? [[String: Any]])
      #expect(stack.contains { $0["function"] as? String == "main" }, "\(stack)")
      let gone = places.filter { $0.name == "gone" }
      #expect(gone.count > 10)
      for (place, answer) in zip(gone, try ask(process, gone.map(\.address), ["--no-stacks"], in: directory)) {
        #expect(answer["allocator"] as? String != kind.name, "\(place): \(answer)")
      }
      let chunk = try #require(places.first { $0.name == "chunk" })
      let answer = try #require(try ask(process, [chunk.address + 4999], in: directory).first)
      #expect(number(answer["base"]) == chunk.address && answer["containers"] == nil)
      let counters = try counters(process, in: directory)
      for name in ["declarations_refused", "suballocations_lost", "suballocations_refused"] {
        #expect(counters[name] == 0, "\(name)")
      }
    }

    @Test("objects of CPython are blocks of pymalloc, in its arenas")
    func python() throws {
      // Debian's other build has these functions inlined into their callers.
      let interpreter = "/usr/bin/python3.11-dbg"
      guard FileManager.default.fileExists(atPath: interpreter) else {
        throw HarnessError("\(interpreter) is missing: apt-get install python3.11-dbg")
      }
      let directory = try TestDirectory()
      let declaration =
        "pymalloc: PyObject_Malloc(Z)p, PyObject_Calloc(ZZ)p, PyObject_Realloc(PZ)p, PyObject_Free(P)"
      let (process, places) = try start(
        interpreter, ["-S", Programs.source("objects.py")], in: directory,
        ["ALLOCS_SUBALLOC": declaration, "PYTHONMALLOC": "pymalloc"])
      #expect(places.count > 500)
      for (place, answer) in zip(places, try ask(process, places.map(\.address), ["--no-stacks"], in: directory)) {
        #expect(number(answer["base"]) == place.address && answer["size"] as? Int == place.size, "\(place): \(answer)")
        #expect(answer["allocator"] as? String == "pymalloc" && answer["mapping"] != nil, "\(place): \(answer)")
      }
      let counters = try counters(process, in: directory)
      for name in ["declarations_refused", "suballocations_lost", "suballocations_refused", "suballocations_replaced"] {
        #expect(counters[name] == 0, "\(name)")
      }
    }

    @Test("the level that is asked for leads, the other is told; top counts what the answers lead with")
    func level() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("pools.cpp", options: Self.kinds[4].options)
      let declaration = try #require(Self.kinds[4].declaration)
      let (process, places) = try start(
        program, in: directory, ["ALLOCS_SUBALLOC": declaration, "ALLOCS_LEVEL": "pool_get=chunk"])
      let live = try #require(places.last { $0.name == "live" })
      let chunk = try #require(try ask(process, [live.address], in: directory).first)
      #expect((chunk["allocator"] as? String)?.hasPrefix("libc.so") == true)
      let contents = try #require((chunk["contents"] as? [[String: Any]])?.first)
      #expect(contents["kind"] as? String == "suballocation" && number(contents["base"]) == live.address)
      let block = try #require(try ask(process, [live.address], ["--level", "block"], in: directory).first)
      #expect(number(block["base"]) == live.address && block["contents"] == nil)

      func top(_ options: [String]) throws -> (allocators: Set<String>, bytes: Int) {
        let outcome = try Tool.control(
          ["top", "\(process.pid)", "--json", "--limit", "1000"] + options, in: directory)
        let table = try #require(try Tool.objects(outcome.output).first)
        let sites = try #require(table["sites"] as? [[String: Any]])
        let total = try #require((table["total"] as? [String: Any])?["bytes"] as? Int)
        return (Set(sites.compactMap { $0["allocator"] as? String }), total)
      }
      let (chunks, blocks) = (try top([]), try top(["--level", "block"]))
      #expect(!chunks.allocators.contains("pool_get") && blocks.allocators.contains("pool_get"))
      #expect(chunks.bytes == blocks.bytes)
      let text = try Tool.control(["query", "\(process.pid)", "\(live.address)", "--level", "block"], in: directory)
      #expect(text.output.contains("in       a chunk of"))
      #expect(text.output.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(text.output)")
    }

    @Test("a process is compared with its snapshot by the chunks of its pools, which is what the snapshot has")
    func comparedWithFile() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("pools.cpp", options: Self.kinds[4].options)
      let declaration = try #require(Self.kinds[4].declaration)
      let (process, _) = try start(program, in: directory, ["ALLOCS_SUBALLOC": declaration])
      let snapshot = directory.file("pools.snap")
      #expect(try Tool.control(["snapshot", "\(process.pid)", "-o", snapshot], in: directory).ending == .exit(0))
      for sides in [[snapshot, "\(process.pid)"], ["\(process.pid)", snapshot]] {
        let outcome = try Tool.control(["diff"] + sides, in: directory)
        #expect(outcome.output.contains("Each site has what it had."), "\(outcome.output)\(outcome.errors)")
      }
    }

    @Test(
      "a wrong declaration harms nobody else",
      arguments: [
        // Frees what it does not free, and what is another's.
        "pool_get(pZ)p, pool_free(pP), pool_clear(R); wrong: malloc_usable_size(P), strlen(P)",
        // Returns no memory; returns what it was given.
        "wrong: strtoul(ppZ)p, strchr(pZ)p; pool_get(pZ)p, pool_free(pP), pool_clear(R)",
        // The size is not the size: its blocks overlap.
        "wrong: pool_get(Zp)p",
      ])
    func wrong(declaration: String) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("pools.cpp", options: Self.kinds[4].options)
      let environment = try ChildProcess.baseEnvironment.merging(
        Installation.agentEnvironment(directory.path).merging(["ALLOCS_SUBALLOC": declaration]) { $1 }
      ) { $1 }
      let process = try ChildProcess([program], environment: environment, conversing: true)
      let places = try readPlaces(process)
      let chunk = try #require(places.first { $0.name == "chunk" })
      let answer = try #require(try ask(process, [chunk.address], ["--level", "chunk"], in: directory).first)
      #expect(number(answer["base"]) == chunk.address && answer["size"] as? Int == 5000)
      guard !declaration.hasPrefix("wrong: pool_get") else { return }
      let live = places.filter { $0.name == "live" }
      for (place, answer) in zip(live, try ask(process, live.map(\.address), ["--no-stacks"], in: directory)) {
        #expect(number(answer["base"]) == place.address, "\(place): \(answer)")
        #expect(answer["allocator"] as? String == "pool_get", "\(place): \(answer)")
      }
    }

    // MARK: configuration

    private func run(_ configuration: String, _ command: [String] = ["true"]) throws -> Outcome {
      let directory = try TestDirectory()
      let file = directory.file("allocs.toml")
      try configuration.write(toFile: file, atomically: true, encoding: .utf8)
      return try Tool.control(["run", "--config", file, "--"] + command, in: directory)
    }

    @Test(
      "what is wrong in the configuration is named with its line, and the program is not started",
      arguments: [
        ("depth = 10\ncolour = 1\n", ":2: ", "no key \"colour\""),
        ("# nothing\n\nsuballoc = [\n  \"a: f(Z)p\",\n  \"b: g(Q)p\",\n]\n", ":5: ", "no such letter"),
        ("suballoc = \"\"\"\none(Z)p,\ntwo(pZp\n\"\"\"\n", ":3: ", "no such letter"),
        ("suballoc = \"f(p)p\"\n", ":1: ", "is its size"),
        ("suballoc = \"f(zp)\"\n", ":1: ", "neither allocates"),
        ("suballoc = \"f(ZZZZZZZ)p\"\n", ":1: ", "more than six"),
        ("\nsuballoc = \"no_such_function_anywhere(Z)p\"\n", ":2: ", "is not found"),
        ("suballoc = 'x@libc.so.6: no_such_function_anywhere(Z)p'\n", ":1: ", "is not found in libc.so.6"),
        ("suballoc = [\n'copies@libc.so.6: memcpy(ppZ)p']\n", ":2: ", "is an IFUNC of"),
        ("suballoc = 'unfinished(pZ'\n", ":1: ", "behind \"unfinished(pZ\": there is no )"),
        ("depth = 10\ndepth = 11\n", ":2: ", "set twice, first in line 1"),
        ("depth = \"ten\"\n", ":1: ", "wrong kind"),
        ("depth = 1000\n", ":1: ", "no depth"),
        ("stacks = \"some\"\n", ":1: ", "says nothing about stacks"),
        ("level = \"apr=deep\"\n", ":1: ", "is not known"),
        ("[agent]\ndepth = 3\n", ":1: ", "no tables"),
        ("dir = \"unfinished\n", ":1: ", "no end"),
        ("dir = 'a' 'b'\n", ":1: ", "something follows"),
      ])
    func badConfiguration(text: String, place: String, why: String) throws {
      let outcome = try run(text, ["sh", "-c", "echo started"])
      #expect(outcome.ending == .exit(64))
      #expect(outcome.errors.contains("allocs.toml\(place)"), "\(outcome.errors)")
      #expect(outcome.errors.contains(why), "\(outcome.errors)")
      #expect(outcome.errors.contains(" — ") && outcome.output.isEmpty)
    }

    @Test("a function that two modules define is found twice; with the module's name it is right")
    func foundTwice() throws {
      let directory = try TestDirectory()
      let library = directory.file("libpools.so")
      let source = directory.file("pools.c")
      try """
      #include <stdlib.h>
      __attribute__((noinline)) void *get_block(size_t size) { return malloc(size + 16); }
      #ifdef MAIN
      extern void *other(size_t);
      int main(void) { return !get_block(10) + !other(20); }
      #else
      void *other(size_t size) { return get_block(size); }
      #endif
      """.write(toFile: source, atomically: true, encoding: .utf8)
      let program = directory.file("twice")
      for arguments in [
        ["cc", "-shared", "-fPIC", "-O1", source, "-o", library],
        ["cc", "-DMAIN", "-O1", source, "-o", program, library, "-Wl,-rpath,\(directory.path)"],
      ] {
        let outcome = try ChildProcess.run(arguments)
        guard outcome.ending == .exit(0) else { throw HarnessError(outcome.errors) }
      }
      let twice = try run("suballoc = 'get_block(Z)p'\n", [program])
      #expect(twice.ending == .exit(64) && twice.errors.contains("found twice"), "\(twice.errors)")
      let right = try run("suballoc = 'x@libpools.so: get_block(Z)p'\n", [program])
      #expect(right.ending == .exit(0), "\(right.errors)")
    }

    @Test("values of the file reach the agent; those of the environment count more")
    func settings() throws {
      let outcome = try run("depth = 7\nstacks = 'site'\nwrappers = ['my_*', \"std::f<a, b>\"]\n", ["env"])
      #expect(outcome.ending == .exit(0))
      let lines = outcome.output.split(separator: "\n")
      #expect(lines.contains("ALLOCS_DEPTH=7") && lines.contains("ALLOCS_STACKS=site"))
      #expect(lines.contains("ALLOCS_WRAPPERS=my_*;std::f<a, b>;"))
    }

    // MARK: the header

    @Test(
      "allocs_pool.h compiles with every compiler, and costs nothing without the agent",
      arguments: [
        ["cc", "-std=c99", "-pedantic", "-x", "c"], ["cc", "-no-pie", "-fno-pie", "-x", "c"], ["c++", "-x", "c++"],
        ["clang", "-x", "c"], ["clang", "-fuse-ld=lld", "-x", "c"], ["clang", "-fuse-ld=lld", "-no-pie", "-x", "c"],
      ])
    func header(compiler: [String]) throws {
      let directory = try TestDirectory()
      let source = directory.file("announce.c")
      try """
      #include <allocs_pool.h>
      #include <stdio.h>
      #include <stdlib.h>
      ALLOCS_POOL_KIND(kind, "announced");
      int main(void) {
        char *chunk = (char *)malloc(1024);
        allocs_pool_allocated(&kind, chunk, chunk + 64, 40);
        allocs_pool_allocated(&kind, chunk, chunk + 128, 40);
        allocs_pool_freed(&kind, chunk + 128);
        printf("live %llu 40\\ngone %llu 40\\nready\\n", (unsigned long long)(size_t)(chunk + 64),
               (unsigned long long)(size_t)(chunk + 128));
        fflush(stdout);
        getchar();
        allocs_pool_reset(&kind, chunk);
        return 0;
      }
      """.write(toFile: source, atomically: true, encoding: .utf8)
      let program = directory.file("announce")
      let built = try ChildProcess.run(
        compiler + ["-O2", "-Wall", "-Wextra", "-Werror", "-I\(Installation.packageDirectory)/include", source]
          + ["-o", program])
      guard built.ending == .exit(0) else { throw HarnessError(built.errors) }
      let plain = try ChildProcess.run([program])
      #expect(plain.ending == .exit(0))
      let (process, places) = try start(program, in: directory, [:])
      let answers = try ask(process, places.map(\.address), in: directory)
      #expect(answers.first?["allocator"] as? String == "announced" && answers.first?["size"] as? Int == 40)
      #expect((answers.last?["allocator"] as? String)?.hasPrefix("libc.so") == true)
    }
  }
}
