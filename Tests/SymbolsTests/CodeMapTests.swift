// SPDX-License-Identifier: Apache-2.0
// Names of code that a process has made: the lines of a perf-PID.map, whatever is in them.

import FileFacts
import Foundation
import TestSupport
import Testing

@testable import Symbols

@Suite("Names of code that a process has made", .bounded)
struct CodeMapTests {
  private static func name(_ address: UInt64, _ lines: String) -> ForeignText? {
    CodeMap.name(at: address, in: Array(lines.utf8))
  }

  @Test("an address is in the function whose bytes hold it; a name may have blanks")
  func lookup() {
    let lines = """
      1000 20 first
      0x1020 10 LazyCompile:~run a.js:12
      2000 1 one

      """
    for (address, name) in [
      (0xfff, nil), (0x1000, "first"), (0x101f, "first"), (0x1020, "LazyCompile:~run a.js:12"), (0x1030, nil),
      (0x2000, "one"), (0x2001, nil),
    ] as [(UInt64, ForeignText?)] {
      #expect(Self.name(address, lines) == name, "\(String(address, radix: 16))")
    }
  }

  @Test("code that was replaced has its newest name; and an old function may reach over new ones")
  func replaced() {
    let lines = "1000 100 old\n1000 40 new\n1020 10 inner\n"
    #expect(Self.name(0x1000, lines) == "new" && Self.name(0x1024, lines) == "inner")
    #expect(Self.name(0x1030, lines) == "new" && Self.name(0x1050, lines) == "old")
  }

  @Test(
    "lines that can't be read name nothing, and take nothing from the others",
    arguments: [
      "", "\n", "x", "1000", "1000 20", "1000 20 ", "zz 20 a", "1000 zz a", "1000 0 a", "ffffffffffffffff 2 a",
      "10000000000000000 2 a", " 1000 20 a", "1000  20 a", "-1000 20 a", "0x 20 a", "1000 20 a",
    ])
  func damaged(line: String) {
    #expect(Self.name(0x1004, "\(line)\n3000 10 good\n") == (line == "1000 20 a" ? "a" : nil))
    #expect(Self.name(0x3004, "\(line)\n3000 10 good\n") == "good")
    // A last line without an end may not be whole yet.
    #expect(Self.name(0x3004, "\(line)\n3000 10 go") == nil)
  }

  @Test("bytes that are no text, and a name without end")
  func hostile() {
    let bytes = Array("1000 20 a".utf8) + [0xFF, 0x1B, 0x00] + Array("b\n".utf8)
    #expect(CodeMap.name(at: 0x1000, in: bytes)?.escaped == #"a\xFF\u{1b}\u{0}b"#)
    let long = Array("1000 20 ".utf8) + Array(repeating: UInt8(ascii: "n"), count: 1 << 20) + [10]
    #expect((CodeMap.name(at: 0x1000, in: long)?.byteCount ?? 0) <= 1 << 14)
  }

  @Test("the file of a process: its own user's regular file, read anew when it has grown")
  func file() throws {
    let path = "/tmp/perf-\(getpid()).map"
    try #require(access(path, F_OK) != 0)
    defer { unlink(path) }
    func write(_ text: String) { append(Array(text.utf8), to: path) }
    let stat = try String(contentsOfFile: "/proc/self/stat", encoding: .utf8)
    let end = try #require(stat.lastIndex(of: ")"))
    let start = try #require(UInt64(stat[end...].split(separator: " ")[20]))
    func map(owner: UInt32 = geteuid(), start: UInt64) -> CodeMap {
      CodeMap(of: ModuleReference.Process(id: getpid(), startTime: start, ownerID: owner), innerID: getpid())
    }
    #expect(map(start: start).name(at: 0x1000) == nil)
    write("1000 20 first\n2000 2")
    #expect(map(start: start).name(at: 0x1000) == "first" && map(start: start).name(at: 0x2000) == nil)
    write("0 second\n")
    #expect(map(start: start).name(at: 0x2010) == "second")
    #expect(map(start: start + 1).name(at: 0x1000) == nil, "another process of this id")
    #expect(map(owner: geteuid() + 1, start: start).name(at: 0x1000) == nil, "another user's file")
    unlink(path)
    symlink("\(path).other", path)
    append(Array("1000 20 linked\n".utf8), to: "\(path).other")
    defer { unlink("\(path).other") }
    #expect(map(start: start).name(at: 0x1000) == nil, "a link")
  }

  private func append(_ bytes: [UInt8], to path: String) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    _ = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
  }
}
