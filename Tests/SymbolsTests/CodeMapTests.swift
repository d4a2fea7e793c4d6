// SPDX-License-Identifier: Apache-2.0
// Names of code that a process has made: the lines of a perf-PID.map, whatever is in them.

import FileFacts
import Foundation
import TestSupport
import Testing

@testable import Symbols

// One after the other: a process has one such file.
@Suite("Names of code that a process has made", .serialized, .bounded)
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

  /// When this process started, as /proc tells it.
  private static func ownStart() throws -> UInt64 {
    let stat = try String(contentsOfFile: "/proc/self/stat", encoding: .utf8)
    let end = try #require(stat.lastIndex(of: ")"))
    return try #require(UInt64(stat[end...].split(separator: " ")[20]))
  }

  @Test("the file of a process: its own user's regular file, read anew when it has grown")
  func file() throws {
    let path = "/tmp/perf-\(getpid()).map"
    try #require(access(path, F_OK) != 0)
    defer { unlink(path) }
    func write(_ text: String) { append(Array(text.utf8), to: path) }
    let start = try Self.ownStart()
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

  @Test("more functions than are kept: the first are known; and a file that is too large names nothing")
  func limits() throws {
    let most = CodeMap.functionLimit
    let lines = (0..<most + 2).map { "\(String($0 + 1, radix: 16)) 1 f\n" }.joined()
    #expect(Self.name(1, lines) == "f" && Self.name(UInt64(most), lines) == "f")
    #expect(Self.name(UInt64(most + 1), lines) == nil && Self.name(UInt64(most + 2), lines) == nil)

    let path = "/tmp/perf-\(getpid()).map"
    try #require(access(path, F_OK) != 0)
    defer { unlink(path) }
    append(Array("1000 20 first\n".utf8), to: path)
    let start = try Self.ownStart()
    for (size, name) in [(CodeMap.sizeLimit, "first"), (CodeMap.sizeLimit + 1, nil)] as [(UInt64, ForeignText?)] {
      #expect(truncate(path, off_t(size)) == 0)
      let process = ModuleReference.Process(id: getpid(), startTime: start, ownerID: geteuid())
      #expect(CodeMap(of: process, innerID: getpid()).name(at: 0x1000) == name)
    }
  }

  private func append(_ bytes: [UInt8], to path: String) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    _ = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
    close(descriptor)
  }
}
