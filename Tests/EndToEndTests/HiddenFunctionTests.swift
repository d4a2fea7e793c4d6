// SPDX-License-Identifier: Apache-2.0
// Functions of allocators that are found in the executable's own symbol table only, and what is wrong with some of
// them.

import Foundation
import IndexReader
import TestSupport
import Testing

extension EndToEnd {
  @Suite("functions that an executable keeps to itself")
  struct HiddenFunctions {
    private static let hidden = ["-fvisibility=hidden", "-DHIDDEN"]

    @Test(
      "one that cannot be hooked is left alone with its family, and all else is indexed",
      arguments: [
        (["-DSHORT"], "it is too short"), (["-DGARBAGE"], "it cannot be decoded to its end"),
        (["-DIFUNC"], "it is not an ordinary function"),
        (["-DORDINARY", Programs.source("second_free.c")], "the executable has several functions of that name"),
      ])
    func refusal(options: [String], reason: String) throws {
      let program = try Programs.path("unhookable.c", options: Self.hidden + options)
      let directory = try TestDirectory()
      var environment = try Installation.agentEnvironment(directory.path)
      let plain = try ChildProcess.run([program])
      #expect(plain.ending == .exit(0))
      environment["ALLOCS_VERBOSE"] = "1"
      let outcome = try ChildProcess.run([program], environment: environment)
      #expect(outcome.ending == plain.ending && outcome.output == plain.output)
      #expect(outcome.errors.contains("does not see free of the executable: \(reason)"), "\(outcome.errors)")
      let segment = try Segment(path: #require(directory.segments().first))
      #expect(segment.counter("entries_hooked") == 0)
      #expect((segment.counter("entries_refused") ?? 0) >= 1)
      #expect(segment.counter("unknown_frees") == 0)
      // The block that libc allocated for the program's standard output.
      #expect(segment.balance > 0)
    }

    @Test("without symbols they are not seen, and all else is indexed")
    func stripped() throws {
      let program = try Programs.path("unhookable.c", options: Self.hidden + ["-DORDINARY", "-s"])
      let directory = try TestDirectory()
      let outcome = try ChildProcess.run([program], environment: try Installation.agentEnvironment(directory.path))
      #expect(outcome == (try ChildProcess.run([program])))
      let segment = try Segment(path: #require(directory.segments().first))
      #expect(segment.counter("entries_hooked") == 0)
      #expect(segment.counter("entries_refused") == 0)
      #expect(segment.balance > 0)
    }

    /// Offsets in an ELF file, from the System V ABI.
    private struct File {
      var bytes: [UInt8]
      func value(_ offset: Int, _ size: Int) -> Int {
        bytes[offset..<offset + size].reversed().reduce(0) { $0 << 8 | Int($1) }
      }
      mutating func store(_ value: UInt64, _ offset: Int, _ size: Int) {
        for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
      }
      /// Where the header of the section of this type lies; the last one.
      func section(type: Int) -> Int? {
        let (start, count) = (value(40, 8), value(60, 2))
        return (0..<count).map { start + $0 * 64 }.last { value($0 + 4, 4) == type }
      }
      /// The symbol with the name `free`.
      func symbol(_ name: String) -> Int? {
        guard let table = section(type: 2) else { return nil }
        let strings = value(value(40, 8) + value(table + 40, 4) * 64 + 24, 8)
        let start = value(table + 24, 8)
        return stride(from: start, to: start + value(table + 32, 8), by: 24).first { symbol in
          let at = strings + value(symbol, 4)
          return Array(bytes[at..<at + name.utf8.count + 1]) == Array(name.utf8) + [0]
        }
      }
    }

    @Test(
      "a symbol table that lies does no harm",
      arguments: [
        "as it is", "no section headers", "table beyond the file", "table without end", "table of odd place",
        "names beyond the file", "names without end", "no names", "name beyond the names", "address nowhere",
        "address in data", "size without end", "file cut short",
      ])
    func damage(way: String) throws {
      let original = try Programs.path("unhookable.c", options: Self.hidden + ["-DORDINARY"])
      var file = File(bytes: Array(try Data(contentsOf: URL(fileURLWithPath: original))))
      let table = try #require(file.section(type: 2))
      let names = file.value(40, 8) + file.value(table + 40, 4) * 64
      let symbol = try #require(file.symbol("free"))
      switch way {
      case "no section headers": file.store(UInt64.max, 40, 8)
      case "table beyond the file": file.store(UInt64.max - 100, table + 24, 8)
      case "table without end": file.store(UInt64.max, table + 32, 8)
      case "table of odd place": file.store(UInt64(file.value(table + 24, 8)) + 3, table + 24, 8)
      case "names beyond the file": file.store(1 << 62, names + 24, 8)
      case "names without end":
        let last = file.value(names + 24, 8) + file.value(names + 32, 8) - 1
        file.bytes[last] = 65
      case "no names": file.store(0, names + 32, 8)
      case "name beyond the names": file.store(UInt64(UInt32.max), symbol, 4)
      case "address nowhere": file.store(UInt64(1) << 46, symbol + 8, 8)
      case "address in data": file.store(UInt64(file.value(file.symbol("memory") ?? 0, 8)), symbol + 8, 8)
      case "size without end": file.store(UInt64.max, symbol + 16, 8)
      case "file cut short": file.bytes.removeLast(file.bytes.count - file.value(40, 8) - 32)
      default: break
      }
      let directory = try TestDirectory()
      let program = directory.file("program")
      try Data(file.bytes).write(to: URL(fileURLWithPath: program))
      try makeExecutable(program)
      let plain = try ChildProcess.run([program])
      #expect(plain.ending == .exit(0))
      let index = try TestDirectory()
      #expect(try ChildProcess.run([program], environment: try Installation.agentEnvironment(index.path)) == plain)
      let segment = try Segment(path: #require(index.segments().first))
      #expect(segment.counter("entries_hooked") == (way == "as it is" ? 4 : 0))
      #expect(segment.counter("unknown_frees") == 0)
      #expect(segment.balance > 0)
    }

    @Test("a program that is started by the dynamic linker is not mistaken for it")
    func startedByTheLinker() throws {
      let program = try Programs.path("unhookable.c", options: Self.hidden + ["-DORDINARY"])
      let directory = try TestDirectory()
      let outcome = try ChildProcess.run(
        ["/lib64/ld-linux-x86-64.so.2", program], environment: try Installation.agentEnvironment(directory.path))
      #expect(outcome == (try ChildProcess.run([program])))
      let segment = try Segment(path: #require(directory.segments().first))
      #expect(segment.counter("entries_hooked") == 0)
    }

    @Test("statically linked programs are refused before they start", arguments: ["-static", "-static-pie"])
    func staticallyLinked(way: String) throws {
      let program = try Programs.path("unhookable.c", options: ["-DORDINARY", "-DHIDDEN", "-fvisibility=hidden", way])
      let outcome = try Tool.control(["run", "--", program], in: try TestDirectory())
      #expect(outcome.ending == .exit(1))
      #expect(outcome.output == "")
      #expect(
        outcome.errors.contains("is statically linked, so no agent can be preloaded into it"), "\(outcome.errors)")
      #expect(outcome.errors.contains("with the agent inside (pkg-config --libs allocs-inexe"), "\(outcome.errors)")
    }
  }
}
