// SPDX-License-Identifier: Apache-2.0
// The words of commands: names that other programs made can't act upon a terminal, and errors say what is wrong and
// what can be done, in one line.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("messages")
  struct Messages {
    /// The characters that a terminal would act upon, other than the ends of lines.
    private func hostile(_ text: String) -> [Unicode.Scalar] {
      text.unicodeScalars.filter { scalar in
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .surrogate: scalar != "\n"
        default: false
        }
      }
    }

    private func expectHarmless(_ what: String, _ outcome: Outcome, sourceLocation: SourceLocation = #_sourceLocation) {
      for text in [outcome.output, outcome.errors] {
        #expect(hostile(text).isEmpty, "\(what): \(hostile(text)) in \(text)", sourceLocation: sourceLocation)
      }
    }

    private static let evil = "\u{1b}[31m\u{7}\r\n\u{202e}\u{9b}\u{2028}\u{e0041}\u{e000}"

    @Test("names of threads, functions, modules, arguments and files act upon no terminal, in no command and no log")
    func escapes() throws {
      let directory = try TestDirectory()
      let name = "lib\(Self.evil).so"
      let library = directory.file(name)
      // GNU as takes any name in quotes, and knows no escapes there.
      let assembly = try directory.write(
        """
        .text
        .globl allocate
        .type allocate,@function
        .cfi_sections .eh_frame
        allocate:
          jmp .Lallocate
        .size allocate, .-allocate
        .type "f\u{1b}[31m\u{9b}\u{202e}g",@function
        "f\u{1b}[31m\u{9b}\u{202e}g":
        .Lallocate:
        .cfi_startproc
          subq $8, %rsp
          .cfi_adjust_cfa_offset 8
          movl $1234, %edi
          call malloc@PLT
          addq $8, %rsp
          .cfi_adjust_cfa_offset -8
          ret
        .cfi_endproc
        .size "f\u{1b}[31m\u{9b}\u{202e}g", .-"f\u{1b}[31m\u{9b}\u{202e}g"
        .section .note.GNU-stack,"",@progbits
        """, to: "evil.s")
      let source = try directory.write(
        """
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/prctl.h>
        int main(int count, char **arguments) {
          prctl(PR_SET_NAME, "t\\033[1m\\302\\233\\r\\n\\xff");
          void *library = dlopen(arguments[1], RTLD_NOW);
          void *(*allocate)(void) = library ? (void *(*)(void))dlsym(library, "allocate") : 0;
          if (!allocate || count < 2) return 1;
          void *block = allocate(), *freed = allocate();
          free(freed);
          printf("%p %p\\n", block, freed);
          fflush(stdout);
          while (getchar() != EOF) free(allocate());
          return 0;
        }
        """, to: "evil.c")
      for command in [
        ["cc", "-shared", assembly, "-o", library], ["cc", "-O1", source, "-o", directory.file("evil"), "-ldl"],
      ] {
        let built = try ChildProcess.run(command)
        guard built.ending == .exit(0) else { throw HarnessError(built.errors) }
      }
      let process = try ChildProcess(
        [Installation.path(of: "allocsctl"), "run", "--events", "--free-stacks", "--", directory.file("evil"), library]
          + [Self.evil],
        environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 }, conversing: true)
      let line = try #require(try process.readLine())
      let addresses = line.split(separator: " ").map(String.init)
      let pid = "\(process.pid)"
      let server = try Server(directory, options: ["--log-level", "debug"])
      let socket = server.socket

      let file = directory.file("run\(Self.evil).rec")
      var said = ""
      for arguments in [
        ["ps"], ["info", pid], ["top", pid], ["query", pid] + addresses, ["query", pid, "--json"] + addresses,
        ["ps", "--json"], ["info", pid, "--json"], ["top", pid, "--json"],
        ["history", pid, addresses[0]], ["history", pid, addresses[1]], ["history", pid, addresses[1], "--json"],
        ["record", pid, "-o", file, "--duration", "50ms"], ["replay", file], ["replay", file, "--json"],
        ["replay", file, "--query", addresses[0]], ["history", "--recording", file, addresses[0]],
        ["export", file, "--format", "jsonl", "-o", "-"], ["query", pid, Self.evil], ["top", Self.evil],
        ["replay", "/nonexistent\(Self.evil)"], [Self.evil], ["help", Self.evil], ["top", pid, "--\(Self.evil)"],
        ["events", pid, "--kind", Self.evil], ["run", "--config", Self.evil, "--", "true"], ["run", "--", Self.evil],
        ["run", "--", "/\(Self.evil)"], ["ps", "--socket", Self.evil],
      ] {
        for other in [nil, socket] as [String?] {
          let outcome = try Tool.control(arguments, in: directory, socket: other)
          expectHarmless("\(arguments.prefix(1))", outcome)
          #expect(!(outcome.output + outcome.errors).isEmpty)
          #expect(outcome.ending == .exit(0) || outcome.errors.split(separator: "\n").count == 1, "\(outcome)")
          said += outcome.output
        }
      }
      // The names were there to be shown.
      for text in ["f\\u{1b}[31m\\u{9b}\\u{202e}g", "t\\u{1b}[1m", "\\xFF", "\\u{2028}", "\\u001b", "\\udb40\\udc41"] {
        #expect(said.contains(text), "\(text)")
      }
      for arguments in [[], ["--json", "--stacks"], ["--direct"], ["--direct", "--json"]] {
        let events = try ChildProcess(
          [Installation.path(of: "allocsctl"), "events", pid] + arguments,
          environment: ChildProcess.baseEnvironment.merging(
            ["ALLOCS_DIR": directory.path, "ALLOCS_SOCKET": socket]) { $1 })
        try wait(for: "an event is told", of: events) {
          try process.send("x")
          return events.said.contains(arguments.contains("--json") ? "\"alloc\"" : " alloc ")
        }
        events.signal(SIGINT)
        let outcome = try events.wait()
        #expect(outcome.output.contains("alloc"), "\(outcome)")
        expectHarmless("events \(arguments)", outcome)
      }
      server.process.signal(SIGTERM)
      let log = try server.process.wait()
      #expect(log.errors.contains("request"))
      expectHarmless("allocsd", log)
      _ = try process.wait()
      expectHarmless("history", try Tool.control(["history", pid, addresses[1]], in: directory))
    }

    /// One line on standard error, which has an advice, and nothing else.
    @discardableResult
    private func expectError(
      _ arguments: [String], status: Int32, _ words: String..., in directory: TestDirectory,
      sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> String {
      let outcome = try Tool.control(arguments, in: directory)
      #expect(outcome.ending == .exit(status), "\(arguments): \(outcome)", sourceLocation: sourceLocation)
      #expect(
        outcome.output == "" && outcome.errors.hasPrefix("allocsctl: ")
          && outcome.errors.split(separator: "\n").count == 1 && outcome.errors.contains(" — "),
        "\(arguments): \(outcome)", sourceLocation: sourceLocation)
      for word in words {
        #expect(outcome.errors.contains(word), "\(arguments): \(outcome.errors)", sourceLocation: sourceLocation)
      }
      return outcome.errors
    }

    /// The names in the list of subcommands that the help ends with, each indented by two columns.
    private func subcommands(in directory: TestDirectory) throws -> [String] {
      let help = try Tool.control(["--help"], in: directory).output
      let list = try #require(help.firstRange(of: "SUBCOMMANDS:\n")).upperBound
      let names = help[list...].matches(of: /(?m)^ {2}([a-z-]+) {2,}/).map { String($0.output.1) }
      try #require(names.contains("run") && names.contains("prune"), "\(help)")
      return names
    }

    @Test("the README's table of commands has each, and no other")
    func readme() throws {
      let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
      let text = try String(contentsOf: package.appending(path: "README.md"), encoding: .utf8)
      let rows = text.matches(of: /(?m)^\| `allocsctl ([a-z-]+)/).map { String($0.output.1) }
      #expect(try rows.sorted() == subcommands(in: TestDirectory()).sorted())
    }

    @Test("a command that there is not is an error, also where its help is asked for")
    func commands() throws {
      let directory = try TestDirectory()
      try expectError(["nope"], status: 64, "there is no command nope", "record, replay", in: directory)
      try expectError(["help", "nope"], status: 64, "there is no command nope", in: directory)
      try expectError(["help", "run", "nope"], status: 64, "run has no command nope", in: directory)
      try expectError(["Query", "1", "0"], status: 64, "there is no command Query", in: directory)
      for command in ["query", "top", "info", "history", "record", "events"] {
        try expectError([command, "-1", "0"], status: 64, "-1 is no process", in: directory)
      }
      for command in try subcommands(in: directory) {
        let help = try Tool.control(["help", command], in: directory)
        #expect(help.ending == .exit(0) && help.output.contains("allocsctl \(command)"))
        #expect(help.output.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(help.output)")
      }
      #expect(try Tool.control(["help"], in: directory).ending == .exit(0))
    }

    @Test("allocsd's errors of usage are like allocsctl's")
    func serverUsage() throws {
      for arguments in [
        ["--nope"], ["nope"], ["--socket"], ["--log-level", "loud"], ["--keep-dead-for", "soon"],
        ["--look-every", "forever"], ["--idle-timeout", "0"],
        ["--export", "file"], ["--export-lossless"], ["--max-open-segments", "x"], ["--nope\u{1b}[31m"],
      ] {
        let outcome = try ChildProcess.run([Installation.path(of: "allocsd")] + arguments)
        #expect(outcome.ending == .exit(64) && outcome.output == "", "\(outcome)")
        #expect(
          outcome.errors.hasPrefix("allocsd: ") && outcome.errors.contains(" — ")
            && outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")
        expectHarmless("\(arguments)", outcome)
      }
      let help = try ChildProcess.run([Installation.path(of: "allocsd"), "--help"])
      #expect(help.ending == .exit(0) && help.output.contains("--keep-dead-for"))
      #expect(help.output.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(help.output)")
      #expect(try ChildProcess.run([Installation.path(of: "allocsd"), "--version"]).ending == .exit(0))
    }

    @Test("files that are no recording are named, whatever they are")
    func recordings() throws {
      let directory = try TestDirectory()
      let (empty, text) = (try directory.write("", to: "empty"), try directory.write("some text\n", to: "text"))
      let pipe = directory.file("pipe")
      mkfifo(pipe, 0o600)
      for path in ["/nonexistent", "/tmp", "/dev/null", empty, text, pipe, "/bin/true"] {
        try expectError(["replay", path], status: 1, path, in: directory)
        try expectError(["export", path, "--format", "jsonl", "-o", "-"], status: 1, path, in: directory)
        try expectError(["history", "--recording", path, "0x10"], status: 1, path, in: directory)
      }
    }

    @Test(
      "what is advised can be followed: for a live process, for an ended one, and for the segment of another version"
    )
    func advice() throws {
      let program = try Stationary()
      try expectError(
        ["history", program.pid, "0x10"], status: 1, "allocsctl record \(program.pid)", in: program.directory)
      program.process.signal(SIGKILL)
      _ = try program.process.wait()
      let history = try expectError(
        ["history", program.pid, "0x10"], status: 1, "it has ended", "allocsctl run --events", in: program.directory)
      #expect(!history.contains("allocsctl record"))
      try expectError(
        ["record", program.pid, "-o", program.directory.file("x")], status: 1, "it has ended", "run --record",
        in: program.directory)
      let path = try program.directory.segment(of: program.process.pid)
      for (version, words) in [(UInt8(200), "which is newer"), (1, "of an older version: start the process again")] {
        let file = try #require(FileHandle(forWritingAtPath: path))
        try file.seek(toOffset: 8)
        try file.write(contentsOf: Data([version, 0, 0, 0]))
        try file.close()
        try expectError(["query", program.pid, "0x10"], status: 1, "version \(version)", words, in: program.directory)
      }
    }

    @Test("one of something is not several")
    func plurals() throws {
      let program = try Eventful(environment: ["ALLOCS_EVENTS": "1"])
      // The last of these blocks had the place of the first.
      try program.tell("pairs 3 4321")
      let segment = try Segment(path: program.directory.segment(of: program.process.pid))
      let last = RingContents(of: segment).events.last { $0.kind == .free && $0.size == 4321 }
      let address = "0x" + String(try #require(last).address, radix: 16)
      let all = try Tool.control(["history", program.pid, address, "--limit", "100000"], in: program.directory)
      let count = all.output.split(separator: "\n").count { $0.contains(" ago: ") }
      try #require(count >= 6)
      let text = try Tool.control(["history", program.pid, address, "--limit", "\(count - 1)"], in: program.directory)
      #expect(text.output.contains("… and 1 older event\n"), "\(text.output)")
    }
  }
}
