// SPDX-License-Identifier: Apache-2.0
// For each kind of thing that a module's file can say, the worst: an answer without it, in no time, with no memory.

import Bounds
import Foundation
import TestSupport
import Testing

@testable import Symbols

/// A module whose file was written by hand, proved by its device, inode and time.
private struct HandmadeModule {
  static let bias: UInt64 = 0x7000_0000_0000
  let directory: TestDirectory
  let path: String

  init(_ bytes: [UInt8], length: Int? = nil) throws {
    directory = try TestDirectory()
    path = directory.file("module.so")
    try Data(bytes).write(to: URL(fileURLWithPath: path))
    // All that lies behind the bytes is a hole.
    if let length { #expect(truncate(path, length) == 0) }
  }

  var reference: ModuleReference {
    var status = stat()
    stat(path, &status)
    return ModuleReference(
      path: ForeignText(path), buildID: [], start: Self.bias, end: Self.bias + 0x2000, bias: Self.bias,
      file: FileState(status))
  }

  func frames(_ address: UInt64 = 0x1100, _ symbolizer: Symbolizer = Symbolizer(debugRoots: [])) -> [Frame] {
    symbolizer.frames(returnAddress: Self.bias + address, in: reference)
  }

  func variable(_ address: UInt64 = 0x1100) -> Variable? {
    Symbolizer(debugRoots: []).variable(at: Self.bias + address, in: reference)
  }
}

/// A unit with one function from 0x1000 to 0x2000, which has `form` for its name; behind the unit's own entry begin
/// those at 11 + 1 + 16.
private func function(named form: UInt64, _ name: [UInt8], more: [UInt8] = []) -> HandmadeDWARF {
  var dwarf = HandmadeDWARF()
  dwarf.abbreviation(1, tag: 0x11, children: true, [(0x11, 0x01), (0x12, 0x07)])
  dwarf.abbreviation(2, tag: 0x2E, children: false, [(0x11, 0x01), (0x12, 0x07), (0x03, form)])
  var entries = HandmadeBytes()
  for code in [UInt8(1), 2] {
    entries.put([code])
    entries.put(0x1000, 8)
    entries.put(0x1000, 8)
  }
  entries.put(name)
  entries.put(more)
  dwarf.unit(entries.bytes)
  return dwarf
}

@Suite(.bounded) struct WorstInputTests {
  // MARK: numbers

  private static let extremes: [UInt64] = [
    0, 1, 1 << 31, 1 << 32, 1 << 63 - 1, 1 << 63, 1 << 63 + 1, .max - 1, .max,
  ]

  @Test("an array of any bounds, counts, strides and sizes of elements")
  func arrays() throws {
    for lower in Self.extremes {
      for (name, number) in [(UInt64(0x2F), Self.extremes), (0x37, Self.extremes)] {
        for bound in number {
          var dwarf = HandmadeDWARF()
          dwarf.abbreviation(1, tag: 0x11, children: true, [])
          dwarf.abbreviation(2, tag: 0x01, children: true, [(0x49, 0x13)])
          dwarf.abbreviation(3, tag: 0x21, children: false, [(0x22, 0x07), (name, 0x07)])
          dwarf.abbreviation(4, tag: 0x34, children: false, [(0x02, 0x18), (0x49, 0x13)])
          dwarf.abbreviation(5, tag: 0x24, children: false, [(0x0B, 0x07)])
          var entries = HandmadeBytes([1, 5])
          entries.put(lower | 1, 8)
          entries.put([2])
          entries.put(12, 4)
          entries.put([3])
          entries.put(lower, 8)
          entries.put(bound, 8)
          entries.put([0, 4, 9, 3])
          entries.put(0x1100, 8)
          entries.put(21, 4)
          entries.put([0])
          dwarf.unit(entries.bytes)
          let module = try HandmadeModule(dwarf.file().build())
          #expect(module.variable()?.path.hasPrefix("(unnamed)") ?? true)
        }
      }
    }
  }

  @Test("the innermost interval is found as by looking at each")
  func intervals() {
    var random = RandomNumbers()
    for count in [0, 1, 2, 31, 32, 33, 1000, 1100] {
      let intervals = (0..<count).map { index in
        let start = UInt64.random(in: 0..<2000, using: &random)
        let length = UInt64.random(in: 0...(index % 17 == 0 ? 2000 : 20), using: &random)
        return IntervalIndex<Int>.Interval(start: start, end: start + length, payload: index)
      }
      let index = IntervalIndex(intervals) { $0.end < $1.end }
      for address in stride(from: UInt64(0), to: 2100, by: 7) {
        let holding = intervals.filter { $0.start <= address && address < $0.end }
        let start = holding.map(\.start).max()
        let found = index.innermost(at: address)
        #expect(found?.start == start)
        #expect(found?.end == holding.filter { $0.start == start }.map(\.end).min())
      }
    }
  }

  @Test("a hundred thousand questions to as many intervals below one that holds them all")
  func deepIntervals() {
    let count = UInt64(1 << 17)
    var intervals = (1..<count).map { IntervalIndex<Void>.Interval(start: $0 * 4, end: $0 * 4 + 1, payload: ()) }
    intervals.append(.init(start: 0, end: .max, payload: ()))
    let index = IntervalIndex(intervals) { $0.end < $1.end }
    for place in 1..<count where index.innermost(at: place * 4 + 2)?.start != 0 {
      Issue.record("another interval at \(place)")
      break
    }
  }

  // MARK: debug information

  private func soundSize(_ dwarf: HandmadeDWARF) -> (size: Int, problem: String?) {
    let info = dwarf.info.bytes
    let abbreviations = dwarf.abbreviations.bytes + [0]
    return info.withUnsafeBytes { info in
      abbreviations.withUnsafeBytes { abbreviations in
        var check = DWARFCheck(abbreviations: abbreviations, mostUnits: 1000)
        let size = check.soundSize(of: info, named: ".debug_info", isTypes: false)
        return (size, check.problem)
      }
    }
  }

  @Test("more units than any program has")
  func units() {
    var dwarf = HandmadeDWARF()
    dwarf.abbreviation(1, tag: 0x11, children: false, [])
    var one = HandmadeDWARF()
    one.unit([1])
    let most = 1000
    for _ in 0..<most { dwarf.info.put(one.info.bytes) }
    #expect(soundSize(dwarf) == (most * 12, nil))
    dwarf.info.put(one.info.bytes)
    #expect(soundSize(dwarf).size == most * 12)
    #expect(soundSize(dwarf).problem?.contains("from byte \(most * 12) of .debug_info") == true)
  }

  @Test("a large table of abbreviations that many units share")
  func abbreviations() {
    var dwarf = HandmadeDWARF()
    for code in 1...UInt64(100_000) { dwarf.abbreviation(code, tag: 0x11, children: false, []) }
    for _ in 0..<83 { dwarf.unit([1]) }
    #expect(soundSize(dwarf).problem == nil)
    dwarf.unit([1])
    #expect(soundSize(dwarf) == (83 * 12, soundSize(dwarf).problem))
    #expect(soundSize(dwarf).problem != nil)
  }

  @Test("tables of abbreviations that lie one over the other")
  func overlappingTables() {
    var dwarf = HandmadeDWARF()
    for code in 1...UInt64(20_000) { dwarf.abbreviation(code, tag: 0x11, children: false, []) }
    // Each is read from a place of its own to the end: 900 times 100 KB.
    for table in 0..<900 { dwarf.unit([1], abbreviationsAt: UInt64(table * 5)) }
    #expect(soundSize(dwarf).problem != nil)
  }

  @Test("attributes that take no bytes, and forms that name the next form")
  func forms() {
    for (form, count, isSound) in [
      (UInt64(0x19), 64, true), (0x19, 65, false), (0x0B, 500, true), (0x0B, 600, false), (0x16, 1, false),
    ] {
      var dwarf = HandmadeDWARF()
      dwarf.abbreviation(1, tag: 0x11, children: false, (0..<count).map { _ in (0x3F, form) })
      dwarf.unit([1])
      #expect((soundSize(dwarf).problem == nil) == isSound)
    }
  }

  @Test("a million forms, each of which names the next")
  func indirect() throws {
    var dwarf = HandmadeDWARF()
    dwarf.abbreviation(1, tag: 0x11, children: true, [(0x3F, 0x16), (0x03, 0x08)])
    dwarf.unit([1] + [UInt8](repeating: 0x16, count: 1 << 20) + [0x0B, 0, 0])
    let frames = try HandmadeModule(dwarf.file().build()).frames()
    #expect(frames.first?.problem?.contains("damaged, or too large, from byte 0") == true)
  }

  @Test("heads of units that say anything are read as far as they are there")
  func unitHeads() {
    var random = RandomNumbers()
    for _ in 0..<2000 {
      var dwarf = HandmadeDWARF()
      dwarf.abbreviation(1, tag: 0x11, children: false, [(0x03, 0x0B)])
      dwarf.info.put(
        (0..<Int.random(in: 0..<40, using: &random)).map { _ in
          [0, 1, 4, 5, 8, 0xFF, UInt8.random(in: 0...255, using: &random)].randomElement(using: &random)!
        })
      #expect(soundSize(dwarf).size <= dwarf.info.count)
    }
  }

  @Test("entries nested a hundred thousand deep, each with the next for its type")
  func nesting() throws {
    var dwarf = HandmadeDWARF()
    dwarf.abbreviation(1, tag: 0x11, children: true, [(0x11, 0x01), (0x12, 0x07)])
    dwarf.abbreviation(2, tag: 0x0B, children: true, [(0x49, 0x13)])
    dwarf.abbreviation(3, tag: 0x34, children: false, [(0x02, 0x18), (0x49, 0x13)])
    var entries = HandmadeBytes([1])
    entries.put(0x1000, 8)
    entries.put(0x1000, 8)
    for depth in 0..<UInt64(100_000) {
      entries.put([2])
      entries.put(28 + (depth + 1) * 5, 4)
    }
    entries.put([3, 9, 3])
    entries.put(0x1100, 8)
    entries.put(28, 4)
    dwarf.unit(entries.bytes)
    let module = try HandmadeModule(dwarf.file().build())
    #expect(!module.frames().isEmpty)
    _ = module.variable()
  }

  @Test("more variables than are kept: the first are known, and what is said of the file says so")
  func variables() throws {
    func module(_ count: Int) throws -> HandmadeModule {
      var dwarf = HandmadeDWARF()
      dwarf.abbreviation(1, tag: 0x11, children: true, [(0x11, 0x01), (0x12, 0x07)])
      dwarf.abbreviation(2, tag: 0x39, children: true, [(0x03, 0x08)])
      dwarf.abbreviation(3, tag: 0x34, children: false, [(0x03, 0x08), (0x02, 0x18)])
      var entries = HandmadeBytes([1])
      entries.put(0x1000, 8)
      entries.put(0x1000, 8)
      // 4 KB of a name that all that is declared in it have before their own.
      entries.put([2] + [UInt8](repeating: UInt8(ascii: "n"), count: 4000) + [0])
      func variable(_ name: String, _ address: UInt64) -> [UInt8] {
        var one = HandmadeBytes([3] + Array(name.utf8) + [0, 9, 3])
        one.put(address, 8)
        return one.bytes
      }
      entries.put(variable("first", 0x1100))
      let more = variable("more", 0x1200)
      entries.put([UInt8]((0..<count).map { _ in more }.joined()))
      entries.put([0])
      entries.put(variable("last", 0x1800))
      entries.put([0])
      dwarf.unit(entries.bytes)
      return try HandmadeModule(dwarf.file().build())
    }
    for (count, isWhole) in [(10, true), (40_000, false)] {
      let module = try module(count)
      let symbolizer = Symbolizer(debugRoots: [])
      func name(_ address: UInt64) -> String? {
        symbolizer.variable(at: HandmadeModule.bias + address, in: module.reference)?.path.escaped
      }
      #expect(name(0x1100)?.hasSuffix("first") == true)
      #expect((name(0x1800) == "last") == isWhole)
      let problem = symbolizer.variableProblem(in: module.reference)?.escaped ?? ""
      #expect(problem.contains("variables") != isWhole, "\(problem)")
    }
  }

  @Test("references that lead in a circle")
  func circles() throws {
    for (tag, attribute) in [
      (UInt64(0x2E), UInt64(0x31)), (0x2E, 0x47), (0x13, 0x49), (0x0F, 0x49), (0x26, 0x49), (0x01, 0x49), (0x13, 0x69),
    ] {
      var dwarf = HandmadeDWARF()
      dwarf.abbreviation(1, tag: 0x11, children: true, [(0x11, 0x01), (0x12, 0x07)])
      dwarf.abbreviation(2, tag: tag, children: false, [(0x11, 0x01), (0x12, 0x07), (attribute, 0x13)])
      dwarf.abbreviation(3, tag: 0x34, children: false, [(0x02, 0x18), (0x49, 0x13)])
      var entries = HandmadeBytes()
      for code in [UInt8(1), 2] {
        entries.put([code])
        entries.put(0x1000, 8)
        entries.put(0x1000, 8)
      }
      entries.put(28, 4)
      entries.put([3, 9, 3])
      entries.put(0x1100, 8)
      entries.put(28, 4)
      entries.put([0])
      dwarf.unit(entries.bytes)
      let module = try HandmadeModule(dwarf.file().build())
      #expect(!module.frames().isEmpty)
      _ = module.variable()
    }
  }

  @Test("a text at the section's end, with no zero behind it, ends there")
  func endlessText() throws {
    let inEntry = try HandmadeModule(function(named: 0x08, Array("inEntry".utf8)).file().build())
    #expect(inEntry.frames().first?.function == "inEntry")
    let texts = [UInt8](repeating: UInt8(ascii: "t"), count: 4080)
    let places: [(offset: UInt64, expected: String?)] = [(4076, "ttt"), (4079, nil), (4080, nil), (4081, nil)]
    for (offset, expected) in places {
      var place = HandmadeBytes()
      place.put(offset, 4)
      let dwarf = function(named: 0x0E, place.bytes, more: [0])
      let module = try HandmadeModule(dwarf.file([.init(".debug_str", texts)]).build())
      #expect(module.frames().first?.function?.unescaped == expected)
    }
  }

  @Test("a name of megabytes is cut, in each place where a name may be")
  func longName() throws {
    var place = HandmadeBytes()
    place.put(0, 4)
    let texts = [UInt8](repeating: UInt8(ascii: "t"), count: 4 << 20)
    let dwarf = function(named: 0x0E, place.bytes, more: [0])
    let module = try HandmadeModule(dwarf.file([.init(".debug_str", texts)]).build())
    let name = try #require(module.frames().first?.function)
    #expect(name.utf8.count <= longestText + 3 && name.hasPrefix("ttt"))

    var table = HandmadeBytes([UInt8](repeating: 0, count: 24))
    table.put(1, 4)
    table.put([0x12, 0, 1, 0])
    table.put(0x1000, 8)
    table.put(0x1000, 8)
    var file = HandmadeELF()
    file.sections = [
      .init(".text", flags: 6, address: 0x1000, [0], claimedSize: 0x1000),
      .init(".symtab", type: 2, table.bytes, link: 3, entrySize: 24), .init(".strtab", type: 3, [0] + texts + [0]),
    ]
    let symbol = try #require(try HandmadeModule(file.build()).frames().first?.function)
    #expect(symbol.utf8.count <= longestText + 3 && symbol.hasPrefix("ttt"))
  }

  // MARK: line tables

  private struct LineTable {
    var files = HandmadeBytes()
    var program = HandmadeBytes()
    var version: UInt64 = 4
    var directory: String?

    /// The rows that it is said to make.
    var rows: Int? {
      var head = HandmadeBytes([1, 1, 1, 0xFB, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
      head.put(files.bytes)
      var unit = HandmadeBytes()
      unit.put(version, 2)
      if version == 5 { unit.put(8, 2) }
      unit.put(UInt64(head.count), 4)
      unit.put(head.bytes)
      unit.put(program.bytes)
      var table = HandmadeBytes()
      table.put(UInt64(unit.count), 4)
      table.put(unit.bytes)
      return table.bytes.withUnsafeBytes { lines in
        let check = LineTableCheck(mostRows: 2000, lines: lines, lineTexts: nil, texts: nil)
        guard let directory else { return check.rows(at: 0, directory: nil) }
        return check.rows(at: 0, directory: directory)
      }
    }
  }

  @Test("a line table's rows are counted as they are read, whatever its instructions say of their length")
  func lineRows() {
    var table = LineTable(files: HandmadeBytes([0, 0]))
    table.program.put([UInt8](repeating: 0x20, count: 1000))
    #expect(table.rows == 1000)
    // The end of a sequence, and a number for profilers, that say to be long: their length is not looked at.
    table.program.put([0, 200, 1] + [UInt8](repeating: 0x20, count: 200))
    table.program.put([0, 200, 4, 0] + [UInt8](repeating: 0x20, count: 200))
    #expect(table.rows == 1401)
    // Numbers of more than ten bytes.
    table.program.put([2] + [UInt8](repeating: 0xFF, count: 11) + [0])
    #expect(table.rows == nil)
    table.program = HandmadeBytes([UInt8](repeating: 0x20, count: 2001))
    #expect(table.rows == nil)
  }

  @Test("a line table's names: too long, too many, and forms that name the next form")
  func lineNames() {
    var table = LineTable(files: HandmadeBytes([0, 0]))
    table.directory = String(repeating: "d", count: 4096)
    #expect(table.rows == 0)
    table.directory = String(repeating: "d", count: 4097)
    #expect(table.rows == nil)
    table.directory = String(repeating: "d", count: 4000)
    table.files = HandmadeBytes([0])
    for _ in 0..<40_000 { table.files.put([UInt8(ascii: "f"), 0, 0, 0, 0]) }
    table.files.put([0])
    #expect(table.rows == nil)
    table.directory = "d"
    #expect(table.rows == 0)

    table = LineTable(files: HandmadeBytes([0, 0, 1, 1, 0x08, 1, UInt8(ascii: "f"), 0]), version: 5)
    #expect(table.rows == 0)
    table.files = HandmadeBytes([0, 0, 1, 1, 0x16, 1] + [UInt8](repeating: 0x16, count: 1 << 16) + [0x08, 0])
    #expect(table.rows == nil)
  }

  // MARK: sections

  @Test("sections that say that they are larger than all memory, in a file of holes")
  func holes() throws {
    let length = 1 << 42
    for (name, type) in [
      (".debug_info", UInt32(1)), (".debug_line", 1), (".debug_frame", 1), (".gnu.debuglto_.debug_info", 1),
      (".gnu_debugdata", 1), (".gnu_debuglink", 1), (".gnu_debugaltlink", 1), (".note.gnu.build-id", 7),
      (".symtab", 2), (".strtab", 3), (".dynsym", 11),
    ] {
      for size in [UInt64(1 << 41), 1 << 40] {
        var dwarf = function(named: 0x08, Array("f".utf8) + [0])
        dwarf.abbreviations.put(0, 1)
        var file = dwarf.file()
        var table = HandmadeBytes([UInt8](repeating: 0, count: 24))
        table.put(1, 4)
        file.sections.append(.init(".symtab", type: 2, table.bytes, link: 5, entrySize: 24))
        file.sections.append(.init(".strtab", type: 3, [0, 97, 0]))
        if let index = file.sections.firstIndex(where: { $0.name == name }) {
          file.sections[index].claimedSize = size
        } else {
          file.sections.insert(.init(name, type: type, [1, 2, 3, 4], claimedSize: size), at: 3)
          file.sections[4].link = 6
        }
        let module = try HandmadeModule(file.build(), length: length)
        let names = module.frames().compactMap(\.function)
        #expect(names == [] || names == ["f"] || names == ["a"], "\(name)")
      }
    }
  }

  @Test("tables of sections and segments that say that they are larger than all memory")
  func tables() throws {
    for (sections, size) in [(UInt16(0), UInt64(1 << 30)), (0, 1 << 62), (0, .max), (0xFFFF, 0)] {
      var file = function(named: 0x08, Array("f".utf8) + [0, 0]).file()
      file.claimedSections = sections
      file.firstSectionSize = size
      file.noteSegments = [(1 << 20, 1 << 40), (.max, .max)]
      let module = try HandmadeModule(file.build(), length: 1 << 42)
      #expect(!module.frames().isEmpty)
    }
  }

  @Test("packed sections that say that they are larger than all memory")
  func packed() throws {
    for size in [UInt64(1 << 31), 1 << 62, .max] {
      for type in [UInt64(1), 2, 3] {
        var packed = HandmadeBytes()
        packed.put(type, 4)
        packed.put(0, 4)
        packed.put(size, 8)
        packed.put(1, 8)
        packed.put([UInt8](repeating: 0, count: 4096))
        var file = function(named: 0x08, Array("f".utf8) + [0, 0]).file()
        file.sections[1] = .init(".debug_info", flags: 0x800, packed.bytes)
        #expect(try HandmadeModule(file.build()).frames().first?.problem?.contains("too large") == true)
      }
      var old = HandmadeBytes(Array("ZLIB".utf8))
      old.put(size.byteSwapped, 8)
      old.put([UInt8](repeating: 0, count: 4096))
      var file = function(named: 0x08, Array("f".utf8) + [0, 0]).file()
      file.sections[1] = .init(".zdebug_info", old.bytes)
      #expect(try HandmadeModule(file.build()).frames().first?.problem?.contains("too large") == true)
    }
  }

  @Test("an .xz file is unpacked as far as its bound, and no further")
  func xz() throws {
    let directory = try TestDirectory()
    let path = directory.file("zeros")
    try Data(repeating: 0, count: 6 << 20).write(to: URL(fileURLWithPath: path))
    #expect(try ChildProcess.run(["xz", path]).ending == .exit(0))
    let packed = [UInt8](try Data(contentsOf: URL(fileURLWithPath: "\(path).xz")))
    packed.withUnsafeBytes { packed in
      for limit in [0, 1, 1 << 20, 6 << 20 - 1] { #expect(Compression.xz(packed, limit: limit) == nil) }
      for limit in [6 << 20, .max] {
        let bytes = Compression.xz(packed, limit: limit)
        #expect(bytes?.count == 6 << 20)
        bytes?.deallocate()
      }
      #expect(Compression.xz(UnsafeRawBufferPointer(rebasing: packed[..<(packed.count - 1)]), limit: 7 << 20) == nil)
    }
  }

  @Test("names of sections that are as long as their table")
  func sectionNames() throws {
    var file = function(named: 0x08, Array("f".utf8) + [0, 0]).file()
    file.sections.append(.init(String(repeating: "n", count: 1 << 20)))
    #expect(try HandmadeModule(file.build()).frames().first?.function == nil)
  }

  // MARK: names

  @Test("a Swift name that unfolds to megabytes, or without end, stays as it is", arguments: [14, 23])
  func swiftBomb(steps: UInt8) {
    var type = "SDyS2iG"
    for step in 0..<steps { type = "SDy\(type)A\(Character(UnicodeScalar(UInt8(ascii: "C") + step)))G" }
    let name = "$s1m1v\(type)vp"
    #expect(demangled(ForeignText(name)) == name)
    #expect(demangled("$s1m1vSDySDyS2iGACGvp").hasPrefix("m.v : Swift.Dictionary"))
  }

  @Test("a Swift name whose references are repeated thousands of times stays as it is")
  func swiftRepetition() {
    let factor = (0..<4).map { _ in "A2047_2000C" }.joined()
    for name in [
      "$s1m1vSDySDyS2iGA2000CA2000CGvp", "$s1m1v\(factor)vp", "$s1m1v\(String(repeating: "S2000i", count: 9))tvp",
    ] {
      #expect(demangled(ForeignText(name)) == name)
    }
  }

  @Test("a Swift name that would take years to pass over stays as it is at once")
  func swiftBombs() {
    func index(_ step: Int) -> String {
      // The first 26 are letters, then "_", "0_", "1_" …
      step < 26 ? String(Character(UnicodeScalar(UInt8(ascii: "A") + UInt8(step)))) : step > 26 ? "\(step - 27)_" : "_"
    }
    for levels in [40, 60, 200] {
      var type = "SDyS2iG"
      for step in 0..<levels { type = "SDy\(type)A\(index(step + 2))G" }
      for name in ["$s1m1v\(type)vp", "$s1m1v\(type)vpTf9nnn"] { #expect(demangled(ForeignText(name)) == name) }
    }
    // Many at once, by a number.
    let repeated = (0..<8).reduce("SDyS2iG") { "Sit_\($0)A2000\(index($1 + 2))t" }
    #expect(demangled("$s1m1v\(repeated)vp").hasPrefix("$s"))
    // A name of a real library, with many substitutions.
    let real =
      "$s20FoundationEssentials16AttributedStringV22transformingAttributesyACs7KeyPathCyAA22AttributeDynamicLookup"
      + "OxG_AFyAHq_GAFyAHq0_GAFyAHq1_GyAC06SingleI11TransformerVy_xGz_ANy_q_GzANy_q0_GzANy_q1_GztXEtAA0cdG0RzAaSR_"
      + "AaSR0_AaSR1_r2_lF"
    #expect(demangled(ForeignText(real)).hasPrefix("FoundationEssentials.AttributedString.transformingAttributes<"))
  }

  // MARK: time

  @Test("a question whose time is over ends, and the next one is answered in full")
  func budget() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
    let symbolizer = Symbolizer(debugRoots: [])
    let address = try #require(program.probes["inlined"]) + TestProgram.bias
    for _ in 0..<2 {
      let over = Budget(seconds: 60, bytes: 1 << 30)
      #expect(throws: (any Error).self) {
        try over.run {
          over.cancel()
          let frames = symbolizer.frames(returnAddress: address, in: program.module)
          #expect(frames.first?.function == nil)
          #expect(symbolizer.staticSymbol(at: address, in: program.module) == nil)
          #expect(symbolizer.variable(at: address, in: program.module) == nil)
        }
      }
    }
    let frames = symbolizer.frames(returnAddress: address, in: program.module)
    #expect(frames.map(\.function) == ["innermost", "middle", "outer"])
    #expect(symbolizer.staticSymbol(at: address, in: program.module) != nil)
  }

  @Test("a debug file whose checksum would take hours is not read to its end")
  func checksum() throws {
    var link = HandmadeBytes()
    link.put(text: "dbg")
    link.put(0x1234, 4)
    var file = HandmadeELF()
    file.sections = [.init(".gnu_debuglink", link.bytes)]
    let module = try HandmadeModule(file.build())
    for length in [4 << 30, 8 << 40] {
      try Data(HandmadeELF().build()).write(to: URL(fileURLWithPath: module.directory.file("dbg")))
      #expect(truncate(module.directory.file("dbg"), length) == 0)
      let short = Budget(seconds: 0.1, bytes: 1 << 30)
      _ = try? short.run { #expect(module.frames().first?.function == nil) }
    }
  }
}
