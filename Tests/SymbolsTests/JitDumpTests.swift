// SPDX-License-Identifier: Apache-2.0
// Names of code that a process has made: the records of a jitdump file, whatever is in them.

import FileFacts
import Foundation
import TestSupport
import Testing

@testable import Symbols

/// A jitdump file, put together record by record.
private struct DumpFile {
  var bytes: [UInt8] = []

  init(
    magic: UInt32 = 0x4A69_5444, version: UInt32 = 1, size: UInt32 = 40, machine: UInt32 = JitDump.machine,
    process: Int32 = getpid(), flags: UInt64 = 0
  ) {
    word(magic)
    word(version)
    word(size)
    word(machine)
    word(0)
    word(UInt32(bitPattern: process))
    long(1)
    long(flags)
    bytes += Array(repeating: 0, count: max(0, Int(size) - 40))
  }

  mutating func word(_ value: UInt32) { bytes += withUnsafeBytes(of: value) { Array($0) } }
  mutating func long(_ value: UInt64) { bytes += withUnsafeBytes(of: value) { Array($0) } }

  /// A record; `size`: in place of its own.
  mutating func record(_ kind: UInt32, time: UInt64, size: UInt32? = nil, _ body: (inout DumpFile) -> Void) {
    let start = bytes.count
    word(kind)
    word(0)
    long(time)
    body(&self)
    let whole = size ?? UInt32(bytes.count - start)
    bytes.replaceSubrange(start + 4..<start + 8, with: withUnsafeBytes(of: whole) { Array($0) })
  }

  mutating func load(
    _ name: String, at start: UInt64, _ length: UInt64, time: UInt64 = 1, index: UInt64 = 0, code: Int? = nil,
    size: UInt32? = nil
  ) {
    record(0, time: time, size: size) { file in
      file.long(0)
      for value in [start, start, length, index] { file.long(value) }
      file.bytes += Array(name.utf8) + [0] + Array(repeating: 0x90, count: code ?? Int(length))
    }
  }

  mutating func lines(at start: UInt64, _ lines: [(UInt64, UInt32, String)], count: UInt64? = nil) {
    record(2, time: 1) { file in
      file.long(start)
      file.long(count ?? UInt64(lines.count))
      for (address, line, name) in lines {
        file.long(address)
        file.word(line)
        file.word(0)
        file.bytes += Array(name.utf8) + [0]
      }
    }
  }
}

@Suite("Names in jitdump files", .bounded)
struct JitDumpTests {
  private let directory: TestDirectory

  init() throws { directory = try TestDirectory() }

  private func read(_ file: DumpFile, cut: Int? = nil) throws -> JitDump {
    var dump = JitDump()
    try read(file, into: &dump, cut: cut)
    return dump
  }

  private func read(_ file: DumpFile, into dump: inout JitDump, cut: Int? = nil) throws {
    let path = "\(directory.path)/file"
    try Data(file.bytes.prefix(cut ?? file.bytes.count)).write(to: URL(fileURLWithPath: path))
    dump.read(try RegularFile(path: ForeignText(path)), processID: getpid()) { $0 < 64 << 20 }
  }

  private func names(_ dump: JitDump, _ address: UInt64) -> [String] {
    dump.functions(at: address).map { $0.name.escaped }
  }

  @Test("a function that lies over many that were there before it is the last of them")
  func overlapping() throws {
    var file = DumpFile()
    for index in 0..<300 as Range<UInt64> {
      file.load("old\(index)", at: 0x1000 + index * 16, 16, time: 10 + index, index: index)
    }
    file.load("over all", at: 0x1000, 300 * 16, time: 1000, index: 1000)
    for index in 0..<100 as Range<UInt64> { file.load("again\(index)", at: 0x9000, 16, time: 2000 + index) }
    let dump = try read(file)
    for place in [0, 16, 150 * 16, 299 * 16 + 15] as [UInt64] {
      #expect(names(dump, 0x1000 + place) == ["old\(place / 16)", "over all"])
    }
    // Of very many at one place, the last ones are told.
    let again = names(dump, 0x9008)
    #expect(again.last == "again99" && again.count < 100)
  }

  @Test("what is read as the file grows is what is read of the whole file, in whatever order functions lie")
  func growing() throws {
    var numbers = RandomNumbers()
    var file = DumpFile()
    var grown = JitDump()
    for index in 0..<400 as Range<UInt64> {
      let place = UInt64.random(in: 0..<64, using: &numbers) * 16
      let length = UInt64.random(in: 1...100, using: &numbers)
      file.load("f\(index)", at: 0x1000 + place, length, time: UInt64.random(in: 0..<9, using: &numbers), index: index)
      if Int.random(in: 0..<5, using: &numbers) == 0 { try read(file, into: &grown) }
    }
    try read(file, into: &grown)
    let whole = try read(file)
    for address in 0xFF0..<0x1500 as Range<UInt64> { #expect(names(grown, address) == names(whole, address)) }
    #expect(!names(whole, 0x1200).isEmpty)
  }

  @Test("where not all could be read, nothing is told; the rest is read when there is room")
  func withoutRoom() throws {
    var file = DumpFile()
    for index in 0..<100 as Range<UInt64> { file.load("old\(index)", at: 0x1000, 16, time: 10 + index) }
    let path = "\(directory.path)/file"
    try Data(file.bytes).write(to: URL(fileURLWithPath: path))
    var dump = JitDump()
    dump.read(try RegularFile(path: ForeignText(path)), processID: getpid()) { $0 < 4096 }
    #expect(dump.isCut && !dump.isOver && dump.loads.count > 1 && names(dump, 0x1000) == [])
    dump.read(try RegularFile(path: ForeignText(path)), processID: getpid()) { _ in true }
    #expect(!dump.isCut && names(dump, 0x1000).last == "old99")
  }

  @Test("code that was loaded, moved, and replaced, each with its time")
  func records() throws {
    var file = DumpFile(size: 48)
    file.load("first", at: 0x1000, 0x40, time: 10, index: 1)
    file.record(4, time: 11) { $0.bytes += Array(repeating: 7, count: 100) }
    file.record(99, time: 11) { $0.bytes += [1, 2, 3] }
    file.load("second", at: 0x1020, 0x40, time: 30, index: 2)
    file.load("earlier", at: 0x1020, 0x10, time: 20, index: 3)
    file.record(1, time: 40) { file in
      file.long(0)
      for value in [0x1000, 0x1000, 0x9000, 0x40, 1] as [UInt64] { file.long(value) }
    }
    // Of a code that is elsewhere by now, and of none.
    for (old, index) in [(0x1000, 1), (0x5000, 77)] as [(UInt64, UInt64)] {
      file.record(1, time: 50) { file in
        file.long(0)
        for value in [old, old, 0xA000, 0x40, index] { file.long(value) }
      }
    }
    file.record(3, time: 60) { _ in }
    file.load("behind the end", at: 0x7000, 0x40)
    let dump = try read(file)
    #expect(names(dump, 0xFFF) == [] && names(dump, 0x1000) == ["first"])
    #expect(names(dump, 0x1024) == ["first", "earlier", "second"])
    #expect(dump.functions(at: 0x1024).map(\.time) == [10, 20, 30])
    #expect(names(dump, 0x9004) == ["first"] && names(dump, 0x9040) == [])
    #expect(names(dump, 0xA000) == [] && names(dump, 0x7000) == [] && dump.isOver)
    // Times of a counter of the processor's say nothing: the order of the records does.
    var other = DumpFile(flags: 1)
    other.load("a", at: 0x1000, 0x40, time: 9)
    other.load("b", at: 0x1000, 0x40, time: 3)
    let untimed = try read(other)
    #expect(names(untimed, 0x1000) == ["a", "b"] && untimed.functions(at: 0x1000).allSatisfy { $0.time == nil })
  }

  @Test("lines of source, each with its file; none where all may be off by the size of an ELF header")
  func lines() throws {
    var file = DumpFile()
    file.lines(at: 0x1000, [(0x1000, 7, "a.js"), (0x1010, 8, "\u{FF}"), (0x1020, 1, "b.js")])
    // The mark of the format is one byte, which is no text.
    let mark = try #require(file.bytes.firstRange(of: Array("\u{FF}".utf8)))
    file.bytes.replaceSubrange(mark, with: [0xFF, 0x00].prefix(1))
    let size = UInt32(file.bytes.count - 40)
    file.bytes.replaceSubrange(44..<48, with: withUnsafeBytes(of: size) { Array($0) })
    file.load("f", at: 0x1000, 0x40)
    file.load("g", at: 0x2000, 0x40)
    let dump = try read(file)
    for (address, name, line) in [(0x1000, "a.js", 7), (0x101F, "a.js", 8), (0x103F, "b.js", 1)]
      as [(UInt64, String, Int)]
    {
      let function = try #require(dump.functions(at: address).first)
      #expect(function.file?.escaped == name && function.line == line, "\(address): \(function)")
    }
    #expect(dump.functions(at: 0x2000).first?.line == nil)
    var shifted = DumpFile()
    shifted.lines(at: 0x1000, [(0x1040, 7, "a.js"), (0x1050, 8, "a.js")])
    shifted.load("f", at: 0x1000, 0x80)
    #expect(try read(shifted).functions(at: 0x1060) == [MadeFunction(name: "f", time: 1)])
    // A record that contradicts itself.
    for (lines, count) in [
      ([(0xFFF, 1, "a")], nil), ([(0x1010, 1, "a"), (0x1000, 2, "a")], nil), ([(0x1000, 1, "")], nil),
      ([(0x1000, 1, "a")], 2), ([(0x1000, 1, "a")], .max), ([], 1),
    ] as [([(UInt64, UInt32, String)], UInt64?)] {
      var wrong = DumpFile()
      wrong.lines(at: 0x1000, lines, count: count)
      wrong.load("f", at: 0x1000, 0x80)
      wrong.load("g", at: 0x2000, 0x80)
      let dump = try read(wrong)
      #expect(dump.functions(at: 0x1000) == [MadeFunction(name: "f", time: 1)], "\(lines)")
      #expect(names(dump, 0x2000) == ["g"])
    }
  }

  @Test("a file of another machine, process, version or order of bytes names nothing")
  func foreign() throws {
    for (what, empty) in [
      ("magic", DumpFile(magic: 0x4454_694A)), ("version", DumpFile(version: 2)), ("machine", DumpFile(machine: 3)),
      ("process", DumpFile(process: getpid() + 1)), ("size", DumpFile(size: 8)), ("size", DumpFile(size: .max - 50)),
    ] {
      var file = empty
      file.load("f", at: 0x1000, 0x40)
      #expect(names(try read(file), 0x1000) == [], "\(what)")
    }
  }

  @Test("a file that is cut anywhere names what is whole, and goes on when the rest comes")
  func cut() throws {
    var file = DumpFile()
    file.lines(at: 0x1000, [(0x1000, 7, "a.js")])
    file.load("first", at: 0x1000, 0x40)
    let first = file.bytes.count
    file.load("second", at: 0x2000, 0x40)
    for cut in 0...file.bytes.count {
      var dump = try read(file, cut: cut)
      #expect(names(dump, 0x1000) == (cut >= first ? ["first"] : []), "\(cut)")
      #expect(names(dump, 0x2000) == (cut == file.bytes.count ? ["second"] : []), "\(cut)")
      try read(file, into: &dump)
      #expect(names(dump, 0x1000) == ["first"] && names(dump, 0x2000) == ["second"], "\(cut)")
      #expect(dump.functions(at: 0x1000).first?.line == 7)
    }
  }

  @Test("sizes that lie: no name is read past its record, and no record is followed outside of the file")
  func lies() throws {
    for (size, isLast) in [(0, true), (15, true), (16, false), (40, false), (57, false), (.max, true)]
      as [(UInt32, Bool)]
    {
      var file = DumpFile()
      file.load("before", at: 0x1000, 0x40)
      file.load("liar", at: 0x2000, 0x40, code: 0, size: size)
      file.load("after", at: 0x3000, 0x40)
      let dump = try read(file)
      #expect(names(dump, 0x1000) == ["before"] && names(dump, 0x2000) == [], "\(size)")
      if isLast { #expect(names(dump, 0x3000) == [], "\(size)") }
    }
    var file = DumpFile()
    file.load("", at: 0x1000, 0x40)
    file.load("x", at: .max, 2)
    file.load("x", at: 0x3000, 0)
    file.load(String(repeating: "n", count: 1 << 18), at: 0x4000, 0x40)
    file.load("a\"b \u{1B}[31m<script>", at: 0x5000, .max >> 1, code: 0)
    let dump = try read(file)
    #expect(names(dump, 0x1000) == [] && names(dump, .max) == [])
    #expect(dump.functions(at: 0x3000).isEmpty && (dump.functions(at: 0x4000).first?.name.byteCount ?? 0) <= 1 << 14)
    #expect(names(dump, 0x5010) == [#"a"b \u{1b}[31m<script>"#])
  }

  @Test("no bytes make it take much or end the program", arguments: 0..<40)
  func noise(seed: Int) throws {
    var random = RandomNumbers(seed: UInt64(seed))
    var file = DumpFile()
    for _ in 0..<200 {
      let kind = UInt32.random(in: 0...5, using: &random)
      file.record(kind, time: .random(in: 0...99, using: &random)) { file in
        for _ in 0..<Int.random(in: 0...120, using: &random) { file.bytes.append(.random(in: 0...255, using: &random)) }
      }
    }
    for _ in 0..<Int.random(in: 0...20, using: &random) {
      file.bytes[Int.random(in: 40..<file.bytes.count, using: &random)] = .random(in: 0...255, using: &random)
    }
    let dump = try read(file)
    for load in dump.loads { _ = dump.functions(at: load.start) }
    #expect(dump.cost < 1 << 20)
  }

  private static let node = try? installedProgram("node", package: "nodejs")

  @Test("what a real compiler writes: every function that ran long has its name", .enabled(if: node != nil))
  func real() throws {
    // V8 compiles what runs long on a thread of its own, which a busy machine may leave no time: then it runs longer.
    // Both functions have a loop, so that each is compiled before it can become a part of its caller.
    for turns in [3000, 10_000, 30_000, 100_000, 300_000] {
      let script = directory.file("a.js")
      try Data(
        """
        function alpha(n) { let sum = 0; for (let i = 0; i < n; i++) sum += (i * 7) % 13; return sum; }
        function beta(n) { let sum = 0; for (let i = 0; i < n; i++) sum += (i * 5) % 11; return sum; }
        let all = 0;
        for (let k = 0; k < \(turns); k++) all += alpha(1000) + beta(1000);
        console.log(process.pid, all);
        """.utf8
      ).write(to: URL(fileURLWithPath: script))
      let outcome = try ChildProcess.run(
        ["/bin/sh", "-c", "cd \(directory.path) && exec \(try #require(Self.node)) --perf-prof a.js"])
      let pid = try #require(outcome.output.split(separator: " ").first.flatMap { Int32($0) }, "\(outcome)")
      var dump = JitDump()
      dump.read(try RegularFile(path: ForeignText(directory.file("jit-\(pid).dump"))), processID: pid) { _ in true }
      #expect(dump.hasTimes && !dump.isOver && dump.loads.count > 100)
      let loads = ["alpha", "beta"].map { name in
        dump.loads.last { dump.functions(at: $0.start).last?.name.escaped.contains("\(name) ") ?? false }
      }
      guard let alpha = loads[0], let beta = loads[1] else {
        try #require(turns < 300_000, "not compiled: \(loads)")
        continue
      }
      for load in [alpha, beta] {
        let function = try #require(dump.functions(at: load.start).last)
        #expect(function.name.escaped.contains("a.js") && function.time != nil)
        // V8's addresses of lines are off by an ELF header, and its names of files no text: none is told.
        #expect(function.line == nil)
      }
      return
    }
  }

  @Test("the file of a process is the one that it has mapped to execute, of its own user, and is read on as it grows")
  func file() throws {
    let stat = try String(contentsOfFile: "/proc/self/stat", encoding: .utf8)
    let end = try #require(stat.lastIndex(of: ")"))
    let start = try #require(UInt64(stat[end...].split(separator: " ")[20]))
    func code(owner: UInt32 = geteuid(), start: UInt64) -> MadeCode {
      MadeCode(of: ModuleReference.Process(id: getpid(), startTime: start, ownerID: owner), innerID: getpid())
    }
    let path = "\(directory.path)/jit-\(getpid()).dump"
    var file = DumpFile()
    file.load("first", at: 0x10, 0x40, time: 5)
    try Data(file.bytes).write(to: URL(fileURLWithPath: path))
    #expect(code(start: start).functions(at: 0x10).isEmpty, "it is not mapped")
    let descriptor = open(path, O_RDWR | O_CLOEXEC)
    let marker = mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, descriptor, 0)
    try #require(marker != MAP_FAILED)
    defer {
      munmap(marker, 4096)
      close(descriptor)
    }
    let known = code(start: start)
    #expect(known.functions(at: 0x10).map(\.name) == ["first"])
    #expect(code(start: start + 1).functions(at: 0x10).isEmpty, "another process of this id")
    #expect(code(owner: geteuid() + 1, start: start).functions(at: 0x10).isEmpty, "another user's file")
    let before = file.bytes.count
    file.load("second", at: 0x10, 0x40, time: 6)
    file.bytes.withUnsafeBytes { bytes in
      _ = pwrite(descriptor, bytes.baseAddress! + before, bytes.count - before, off_t(before))
    }
    // The file is looked at once a second.
    try wait(for: "the file is read on") { known.functions(at: 0x10).map(\.name) == ["first", "second"] }
    // Another file of that name is none of its.
    unlink(path)
    try Data(file.bytes).write(to: URL(fileURLWithPath: path))
    #expect(code(start: start).functions(at: 0x10).isEmpty)
  }
}
