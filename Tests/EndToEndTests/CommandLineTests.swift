// SPDX-License-Identifier: Apache-2.0
// What `run` hands on is what it was given, byte for byte; files and directories may have any name; and what can't be
// run, or can't take the agent, is refused before it starts, by a message that says what it is.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("bytes of the command line")
  struct CommandLineBytes {
    /// The lines that bytes.c says, less the variables that allocsctl sets.
    private func said(_ outcome: Outcome) -> [Substring] {
      let ours = ["LD_PRELOAD=", "ALLOCS=", "ALLOCS_RECORDER="].map { name in
        "variable " + name.utf8.map { String($0, radix: 16) }.joined()
      }
      return outcome.output.split(separator: "\n").filter { line in !ours.contains { line.hasPrefix($0) } }
    }

    /// The agent's path, without links.
    private func agent() throws -> String {
      let path = try Installation.path(of: Installation.agent)
      guard let real = realpath(path, nil) else { throw HarnessError("there is no \(path)") }
      defer { free(real) }
      return String(cString: real)
    }

    private func preload(_ outcome: Outcome) -> String? {
      let prefix = "variable " + "LD_PRELOAD=".utf8.map { String($0, radix: 16) }.joined()
      let found = outcome.output.split(separator: "\n").filter { $0.hasPrefix(prefix) }
      guard found.count == 1, let digits = found.first?.dropFirst(prefix.count) else { return nil }
      let bytes = stride(from: 0, to: digits.count, by: 2).compactMap {
        UInt8(digits.dropFirst($0).prefix(2), radix: 16)
      }
      return String(decoding: bytes, as: UTF8.self)
    }

    @Test(
      "arguments and environment arrive as they were given, whatever bytes they are", arguments: [[], ["--record"]])
    func bytes(options: [String]) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("bytes.c")
      let control = try Installation.path(of: "allocsctl")
      let file = options.map { [$0, directory.file("run.rec")] }.flatMap { $0 }
      let plain = try ChildProcess.run([program, "start", program], environment: ["ALLOCS_DIR": directory.path])
      try #require(plain.ending == .exit(0) && said(plain).count > 270, "\(plain.errors)")
      for separator in [[], ["--"]] {
        let run = try ChildProcess.run(
          [program, "start", control, "run"] + file + separator + [program], environment: ["ALLOCS_DIR": directory.path]
        )
        #expect(run.ending == .exit(0), "\(run.errors)")
        #expect(said(run) == said(plain))
        #expect(preload(run) == (try agent()))
      }
      #expect(try directory.segments().count == 2)
    }

    @Test("libraries that the caller preloads are loaded behind the agent")
    func preloaded() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("bytes.c")
      let run = try ChildProcess.run(
        [program, "start", Installation.path(of: "allocsctl"), "run", "--", program],
        environment: ["ALLOCS_DIR": directory.path, "HOSTILE_PRELOAD": "libm.so.6 libdl.so.2"])
      #expect(run.ending == .exit(0) && run.errors == "", "\(run.errors)")
      #expect(preload(run) == (try agent()) + ":libm.so.6 libdl.so.2")
    }

    @Test("programs, recordings, configurations, directories and the agent itself may have names that are no text")
    func names() throws {
      let directory = try TestDirectory()
      try #require(ChildProcess.run([Programs.path("bytes.c"), "make", directory.path]).ending == .exit(0))
      let control = try Installation.path(of: "allocsctl")
      let agent = try Installation.path(of: Installation.agent)
      // In the shell's own notation, as Swift's strings can't hold the names.
      let script = """
        set -e; exec 2>&1; cd '\(directory.path)'; odd=$'d\\xe9'; ctl='\(control)'
        export ALLOCS_DIR=$PWD/$odd ALLOCS_SOCKET=/nonexistent LC_ALL=C
        say() { echo "$*"; }
        "$ctl" run -- "./$odd/"$'p\\xff' show | grep -q '^variable' && say by-path
        PATH=$PWD/$odd:$PATH "$ctl" run -- $'p\\xff' show | grep -q '^variable' && say by-name
        printf 'depth = 7\\n' > "$odd/c"$'\\xfe'
        "$ctl" run --config "$odd/c"$'\\xfe' -- sh -c 'test $ALLOCS_DEPTH = 7' && say configured
        cp '\(agent)' "$odd/agent"$'\\xe9'.so
        ALLOCS_AGENT=$PWD/$odd/agent$'\\xe9'.so "$ctl" run -- \\
          sh -c 'grep -q "agent.*\\.so" /proc/$$/maps && ls "$ALLOCS_DIR"/$$.*.seg' > out
        grep -q 'seg$' out && say agent
        "$ctl" run --record "$odd/r"$'\\xe9'.rec -- sh -c true $'a\\xe9\\e' 2>&1 |
          grep -q 'r\\\\xE9.rec: .*events' && say recorded
        "$ctl" replay "$odd/r"$'\\xe9'.rec | grep -q 'allocation' && say replayed
        "$ctl" history --recording "$odd/r"$'\\xe9'.rec 0x10 | grep -q 'looked through' && say history
        "$ctl" export "$odd/r"$'\\xe9'.rec --format jsonl -o "$odd/o"$'\\xe9' &&
          grep -q '"a\\\\\\\\xE9\\\\u001b"' "$odd/o"$'\\xe9' && say exported
        "$ctl" run --events -- sleep 1000 & p=$!
        while ! "$ctl" info $p >/dev/null 2>&1; do sleep 0.05; done
        "$ctl" ps | grep -q "$p .*live" && say listed
        "$ctl" record $p -o "$odd/z"$'\\xe9' --duration 50ms | grep -q 'z\\\\xE9: ' && say live
        kill $p
        """
      let outcome = try ChildProcess.run(["bash", "-c", script])
      #expect(
        outcome.output.split(separator: "\n").filter { !$0.contains("Terminated") } == [
          "by-path", "by-name", "configured", "agent", "recorded", "replayed", "history", "exported", "listed", "live",
        ], "\(outcome)")
    }

    @Test("bytes of a command that are no text, and what a terminal would act upon, are shown by their numbers")
    func shown() throws {
      let directory = try TestDirectory()
      let outcome = try ChildProcess.run(
        [
          "bash", "-c",
          """
          '\(try Installation.path(of: "allocsctl"))' run -- true $'caf\\xe9\\e[31m\\u202e'
          '\(try Installation.path(of: "allocsctl"))' ps; '\(try Installation.path(of: "allocsctl"))' ps --json
          """,
        ], environment: ["ALLOCS_DIR": directory.path, "ALLOCS_SOCKET": "/nonexistent"])
      #expect(outcome.output.contains("true caf\\xE9\\u{1b}["), "\(outcome.output)")
      let json = try #require(outcome.output.split(separator: "\n").last { $0.hasPrefix("{") })
      #expect(json.contains(#"caf\\xE9\u001b[31m\u202e"#), "\(json)")
      let object = try #require(try Tool.objects(String(json)).first?["processes"] as? [[String: Any]])
      #expect((object.first?["command"] as? [String])?.last == "caf\\xE9\u{1b}[31m\u{202e}")
    }

    @Test("100,000 arguments arrive; what is too long together with our variables is said so")
    func many() throws {
      let directory = try TestDirectory()
      let program = try Programs.path("bytes.c")
      let control = try Installation.path(of: "allocsctl")
      let outcome = try ChildProcess.run(
        [
          "sh", "-c",
          "seq 100000 | xargs -x -n 100000 -s 2000000 '\(control)' run -- '\(program)' show"
            + " | tail -n +100000 | head -1",
        ],
        environment: ["ALLOCS_DIR": directory.path])
      #expect(outcome.output == "argument 313030303030\n", "\(outcome)")
      let full = try ChildProcess.run(
        [program, "start-many", control, "run", "--", program], environment: ["ALLOCS_DIR": directory.path])
      #expect(full.ending == .exit(126), "\(full.errors)")
      #expect(full.errors.contains("Argument list too long — its arguments and its environment"), "\(full.errors)")
    }

    @Test(
      "a text without #! is run by the shell, as by execvp, also where it is recorded", arguments: [[], ["--record"]])
    func text(options: [String]) throws {
      let directory = try TestDirectory()
      let script = try directory.write("echo \"$0|$1|$2\"; exit 5\n", to: "text")
      try makeExecutable(script)
      let file = options.flatMap { [$0, directory.file("run.rec")] }
      let outcome = try Tool.control(["run"] + file + ["--", script, "", "a b"], in: directory)
      #expect(outcome.ending == .exit(5) && outcome.output == "\(script)||a b\n", "\(outcome)")
    }

    @Test("scripts get what the kernel gives them: a relative interpreter, one argument, scripts of scripts")
    func scripts() throws {
      let directory = try TestDirectory()
      let inner = try directory.write("#!/bin/echo \t one argument \nnothing\n", to: "inner")
      _ = try directory.write("#!./inner of inner\n", to: "outer")
      for name in ["inner", "outer"] { try makeExecutable(directory.file(name)) }
      let shell = ["sh", "-c", "cd '\(directory.path)' && exec \"$@\"", "sh"]
      let plain = try ChildProcess.run(shell + ["./outer", "last"])
      let run = try ChildProcess.run(
        shell + [Installation.path(of: "allocsctl"), "run", "--", "./outer", "last"],
        environment: ["ALLOCS_DIR": directory.path])
      #expect(plain.ending == .exit(0) && plain.output.contains("of inner") && run == plain, "\(run) \(plain)")
      #expect(try !directory.segments().isEmpty && !inner.isEmpty)
    }
  }

  @Suite("programs that can't be indexed")
  struct Unindexable {
    /// Runs `command`, which must be refused before it does anything.
    private func expectRefusal(
      _ command: [String], status: Int32, says words: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
      let directory = try TestDirectory()
      let outcome = try Tool.control(["run", "--"] + command, in: directory)
      #expect(outcome.ending == .exit(status), "\(outcome.errors)", sourceLocation: sourceLocation)
      #expect(outcome.output == "" && outcome.errors.hasPrefix("allocsctl: "), sourceLocation: sourceLocation)
      #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)", sourceLocation: sourceLocation)
      for word in words + [" — "] {
        #expect(outcome.errors.contains(word), "\(word): \(outcome.errors)", sourceLocation: sourceLocation)
      }
      #expect(try directory.segments().isEmpty, sourceLocation: sourceLocation)
    }

    private func executable(_ bytes: [UInt8], in directory: TestDirectory, _ name: String) throws -> String {
      try Data(bytes).write(to: URL(fileURLWithPath: directory.file(name)))
      try makeExecutable(directory.file(name))
      return directory.file(name)
    }

    private func script(_ line: String, in directory: TestDirectory, _ name: String) throws -> String {
      try executable(Array("#!\(line)\necho started\n".utf8), in: directory, name)
    }

    /// A copy of stationary.c's program that names another loader.
    private func program(loader: String, in directory: TestDirectory, _ name: String) throws -> String {
      let source = try Programs.path("stationary.c", options: ["-Wl,--dynamic-linker=\(loader)"])
      return try executable(Array(Data(contentsOf: URL(fileURLWithPath: source))), in: directory, name)
    }

    private func muslProgram(in directory: TestDirectory) throws -> String {
      let source = try directory.write("#include <stdio.h>\nint main(void) { puts(\"started\"); }\n", to: "musl.c")
      let built = try ChildProcess.run(["musl-gcc", source, "-o", directory.file("musl")])
      guard built.ending == .exit(0) else { throw HarnessError("apt-get install musl-tools: \(built.errors)") }
      return directory.file("musl")
    }

    private static let musl = "/lib/ld-musl-x86_64.so.1"

    @Test("a program of musl is refused by the name of its loader, also as the interpreter of scripts")
    func musl() throws {
      let directory = try TestDirectory()
      let program = try muslProgram(in: directory)
      #expect(try ChildProcess.run([program]).output == "started\n")
      let words = ["needs the loader \(Self.musl)", "another C library (musl)", program]
      try expectRefusal([program], status: 1, says: words)
      let first = try script(program, in: directory, "first")
      try expectRefusal([first], status: 1, says: words + [first])
      try expectRefusal([try script("\(first) -x", in: directory, "second")], status: 1, says: words)
      try expectRefusal([Self.musl, program], status: 1, says: ["the loader of another C library (musl)"])
      // Its library by another name than its loader's.
      let other = directory.file("renamed.so")
      try makeExecutable(other, from: "/lib/x86_64-linux-musl/libc.so")
      try expectRefusal([other, program], status: 1, says: ["another C library (musl)"])
      try expectRefusal(
        [try self.program(loader: other, in: directory, "patched")], status: 1,
        says: ["needs the loader \(other)", "another C library (musl)"])
      // A program that can't be looked through runs, and allocsctl says what became of it.
      let shell = try Tool.control(["run", "--", "sh", "-c", "echo before; exit 4"], in: directory)
      #expect(shell.ending == .exit(4) && shell.output == "before\n")
    }

    @Test(
      "a loader that is not there, or is no loader, is named",
      arguments: [
        ("/nonexistent/ld-linux-x86-64.so.2", 127, ["No such file", "install the C library"]),
        ("/lib/ld-musl-riscv64.so.1", 127, ["No such file", "another C library (musl)"]),
        ("/lib/ld64-uClibc.so.0", 127, ["No such file", "another C library (uClibc)"]),
        ("/system/bin/linker64", 127, ["No such file", "another C library (bionic)"]),
        ("/etc/passwd/ld.so", 127, ["Not a directory"]), ("/etc/passwd", 126, ["is no program"]),
        ("/bin/sh", 1, ["of another C library (not the GNU one)"]),
      ])
    func loaders(loader: String, status: Int32, words: [String]) throws {
      let directory = try TestDirectory()
      let program = try program(loader: loader, in: directory, "program")
      try expectRefusal([program], status: status, says: words + ["\(program) needs the loader \(loader)"])
      try expectRefusal([try script(program, in: directory, "script")], status: status, says: words + [loader])
    }

    @Test(
      "a program for another machine is named by it",
      arguments: [
        (183, 2, 1, "aarch64"), (3, 1, 1, "i386"), (62, 1, 1, "x86-64, 32-bit"), (21, 2, 2, "powerpc, 64-bit"),
        (21, 2, 1, "powerpc, 64-bit, little-endian"), (243, 2, 1, "riscv, 64-bit"), (22, 2, 2, "s390"),
        (40, 1, 2, "arm, big-endian"), (62, 2, 2, "x86-64, big-endian"), (999, 2, 1, "machine 999, 64-bit"),
      ])
    func machines(number: Int, width: UInt8, order: UInt8, name: String) throws {
      let directory = try TestDirectory()
      var bytes = Array(try Data(contentsOf: URL(fileURLWithPath: "/bin/true")))
      (bytes[4], bytes[5]) = (width, order)
      let (low, high) = (UInt8(number & 0xFF), UInt8(number >> 8))
      (bytes[18], bytes[19]) = order == 1 ? (low, high) : (high, low)
      let program = try executable(bytes, in: directory, "program")
      try expectRefusal([program], status: 1, says: ["\(program): it is for \(name), a program for another machine"])
      try expectRefusal([try script(program, in: directory, "script")], status: 1, says: [program, "is for \(name)"])
      try expectRefusal(["/lib64/ld-linux-x86-64.so.2", program], status: 1, says: [program, "is for \(name)"])
      try expectRefusal(
        [try self.program(loader: program, in: directory, "other")], status: 1, says: [program, "is for \(name)"])
    }

    @Test("an interpreter that is not there, or can't be executed, is named")
    func interpreters() throws {
      let directory = try TestDirectory()
      try expectRefusal(
        [try script("/nonexistent/sh -e", in: directory, "none")], status: 127, says: ["/nonexistent/sh", "first line"])
      try expectRefusal(
        [try script("/bin/sh\r", in: directory, "dos")], status: 127, says: ["/bin/sh\\u{d}", "carriage return"])
      try expectRefusal([try script("/etc/passwd", in: directory, "text")], status: 126, says: ["/etc/passwd"])
      try expectRefusal([try script("/tmp", in: directory, "folder")], status: 126, says: ["/tmp"])
      try expectRefusal([directory.path], status: 126, says: ["is a directory"])
      try expectRefusal([try directory.write("echo", to: "plain")], status: 126, says: ["chmod +x"])
      try expectRefusal([""], status: 127, says: ["the command is empty"])
      try expectRefusal(["no-such-program"], status: 127, says: ["no directory of PATH"])
    }

    @Test(
      "a program that the dynamic loader is told to start is indexed, whatever options come first",
      arguments: [
        [], ["--inhibit-cache"], ["--library-path", "/nonexistent:/lib"], ["--argv0", "--another-name"],
        ["--preload", "libm.so.6"], ["--inhibit-rpath", "x", "--glibc-hwcaps-prepend", "y"],
      ])
    func startedByLoader(options: [String]) throws {
      let directory = try TestDirectory()
      let program = try Programs.path("stationary.c")
      let loader = "/lib64/ld-linux-x86-64.so.2"
      let link = directory.file("loader")
      symlink(loader, link)
      let launcher = try script("\(link) \(program)", in: directory, "launcher")
      for command in [[loader] + options + [program], [link] + options + [program], [launcher]] {
        let process = try ChildProcess(
          [Installation.path(of: "allocsctl"), "run", "--"] + command,
          environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 }, conversing: true)
        let lines = try process.readLines(until: "ready")
        let block = try #require(
          lines.first { $0.hasPrefix("block ") }.flatMap { UInt64($0.split(separator: " ")[1]) })
        let segment = try Segment(path: directory.segment(of: process.pid))
        #expect(segment.allocation(containing: block)?.size == 1000)
        #expect(segment.counter("entries_hooked") == 0 && segment.counter("entries_refused") == 0)
        #expect(try process.wait().ending == .exit(0))
      }
    }

    @Test(
      "of `ld.so PROGRAM` it is the program whose functions may be declared as a pool's, and that must take the agent")
    func declaredBehindLoader() throws {
      let directory = try TestDirectory()
      let loader = "/lib64/ld-linux-x86-64.so.2"
      let program = try Programs.path("stationary.c")
      func run(_ declaration: String, _ program: String) throws -> Outcome {
        let file = try directory.write("suballoc = '\(declaration)'\n", to: "allocs.toml")
        return try Tool.control(["run", "--config", file, "--", loader, "--inhibit-cache", program], in: directory)
      }
      let found = try run("pool: allocate_for_query(Z)p", program)
      #expect(found.ending == .exit(0) && found.output.contains("ready"), "\(found.errors)")
      let library = try run("pool@libc.so.6: strdup(Z)p", program)
      #expect(library.ending == .exit(0), "\(library.errors)")
      let missing = try run("pool: no_such_function(Z)p", program)
      #expect(missing.ending == .exit(64) && missing.errors.contains("is not found in"), "\(missing.errors)")
      let fixed = try Programs.path("stationary.c", options: ["-static"])
      try expectRefusal([loader, fixed], status: 1, says: [fixed, "statically linked"])
      let help = try Tool.control(["run", "--", loader, "--version"], in: directory)
      #expect(help.ending == .exit(0) && help.output.contains("ld.so"))
    }
  }
}
