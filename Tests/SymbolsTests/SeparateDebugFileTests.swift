// SPDX-License-Identifier: Apache-2.0
// Where debug information is looked for, and what proves that it belongs to the module.

import Foundation
import Symbols
import TestSupport
import Testing

@Suite(.bounded) struct SeparateDebugFileTests {
  private func program(_ source: String = "plain.c") throws -> TestProgram {
    try TestProgram(source, compiler: source.hasSuffix("cpp") ? "g++" : "gcc", ["-O2", "-g"])
  }

  /// Splits the program's debug information into `file` and strips the program of all symbols.
  private func split(_ program: TestProgram, into file: String, link: Bool) throws {
    try FileManager.default.createDirectory(
      atPath: URL(fileURLWithPath: file).deletingLastPathComponent().path, withIntermediateDirectories: true)
    try run("objcopy", ["--only-keep-debug", program.path, file])
    try run("strip", ["--strip-all", program.path])
    if link { try run("objcopy", ["--add-gnu-debuglink=\(file)", program.path]) }
  }

  private func buildIDPath(_ id: [UInt8]) -> String {
    let digits = id.map { String(format: "%02x", $0) }
    return ".build-id/\(digits[0])/\(digits[1...].joined()).debug"
  }

  private let names = ["innermost", "middle", "outer"]

  @Test("a debug file is found through .gnu_debuglink", arguments: ["program.debug", ".debug/program.debug"])
  func debugLink(_ place: String) throws {
    let program = try program()
    try split(program, into: "\(program.folder.path)/\(place)", link: true)
    #expect(try program.frames("inlined").map(\.function?.unescaped) == names)
    #expect(try program.frames("hidden").first?.line == program.line("hidden"))
  }

  @Test("a debug file is found through .gnu_debuglink below a debug root")
  func debugLinkInRoot() throws {
    let program = try program()
    let root = "\(program.folder.path)/root"
    try split(program, into: "\(root)\(program.folder.path)/program.debug", link: true)
    #expect(try program.frames("inlined", Symbolizer(debugRoots: [root])).map(\.function?.unescaped) == names)
    #expect(try program.frames("inlined", Symbolizer(debugRoots: [])).map(\.function?.unescaped) != names)
  }

  @Test("a debug file is found by its build id, also when the program itself is gone", arguments: [false, true])
  func buildIDTree(_ programIsGone: Bool) throws {
    let program = try program()
    let root = "\(program.folder.path)/root"
    let counters = try program.symbol("counters")
    try split(program, into: "\(root)/\(buildIDPath(program.buildID))", link: false)
    if programIsGone { try FileManager.default.removeItem(atPath: program.path) }
    let symbolizer = Symbolizer(debugRoots: ["/nonexistent", root])
    #expect(try program.frames("inlined", symbolizer).map(\.function?.unescaped) == names)
    let symbol = symbolizer.staticSymbol(at: counters.address + 4 + TestProgram.bias, in: program.module)
    #expect(symbol == StaticSymbol(name: "counters", offset: 4, size: 64, section: ".data"))
  }

  @Test("a debug file of another build is not used")
  func wrongDebugFile() throws {
    let program = try program()
    let other = try self.program("templates.cpp")
    let file = "\(program.folder.path)/program.debug"
    try split(program, into: file, link: true)
    try run("objcopy", ["--only-keep-debug", other.path, file])
    #expect(try program.frames("hidden").map(\.seen) == [ExpectedFrame()])
  }

  @Test("without build ids the checksum in .gnu_debuglink decides", arguments: [false, true])
  func checksum(_ isDamaged: Bool) throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g", "-Wl,--build-id=none"])
    #expect(program.buildID.isEmpty)
    let file = "\(program.folder.path)/program.debug"
    var module = program.module
    let span = try program.loadedSpan()
    (module.start, module.end) = (span.lowerBound + TestProgram.bias, span.upperBound + TestProgram.bias)
    try split(program, into: file, link: true)
    if isDamaged {
      let handle = try FileHandle(forWritingTo: URL(fileURLWithPath: file))
      try handle.seekToEnd()
      try handle.write(contentsOf: Data([0]))
      try handle.close()
    }
    var status = stat()
    try #require(stat(program.path, &status) == 0)
    module.file = FileState(status)
    let address = try #require(program.probes["inlined"])
    let frames = Symbolizer().frames(returnAddress: address + TestProgram.bias, in: module)
    #expect((frames.map(\.function?.unescaped) == names) == !isDamaged)
  }

  @Test("DWARF that dwz has shared between files is followed", .enabled(if: findTool("dwz") != nil))
  func commonFile() throws {
    let program = try program("templates.cpp")
    let debug = "\(program.folder.path)/program.debug"
    let second = "\(program.folder.path)/second.debug"
    let common = "\(program.folder.path)/common.debug"
    let expected = try program.frames("constructor")
    try split(program, into: debug, link: true)
    try FileManager.default.copyItem(atPath: debug, toPath: second)
    try run("dwz", ["-m", common, "-M", common, debug, second])
    #expect(FileManager.default.fileExists(atPath: common))
    #expect(try program.frames("constructor") == expected)
    try FileManager.default.removeItem(atPath: common)
    // The rest of the names lies in the file that is gone; the symbol table stays.
    #expect(
      try program.frames("constructor").map(\.seen) == [ExpectedFrame(function: expected.last?.function?.unescaped)])
  }

  @Test("a stripped program answers with what its dynamic symbols say, and nothing for the rest")
  func stripped() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-rdynamic"])
    try run("strip", ["--strip-all", program.path])
    #expect(try program.frames("inlined").map(\.seen) == [ExpectedFrame(function: "outer")])
    #expect(try program.frames("hidden").map(\.seen) == [ExpectedFrame()])
  }

  @Test("a file that was replaced by another build gives no symbols")
  func replaced() throws {
    let program = try program()
    let other = try self.program("templates.cpp")
    let address = try #require(program.probes["hidden"])
    let bare = Frame(
      pc: address + TestProgram.bias, module: ForeignText(program.path),
      place: Frame.FilePlace(address: address - 1, buildID: program.buildID), unnamed: .otherFile)
    try FileManager.default.removeItem(atPath: program.path)
    try FileManager.default.copyItem(atPath: other.path, toPath: program.path)
    #expect(try program.frames("hidden") == [bare])
    let symbolizer = Symbolizer()
    for offset in stride(from: UInt64(0), to: 0x6000, by: 8) {
      #expect(symbolizer.staticSymbol(at: offset + TestProgram.bias, in: program.module) == nil)
    }
  }

  @Test("a module without a build id is not taken for a file that has one, nor for one that was mapped differently")
  func noBuildID() throws {
    var program = try program()
    program.buildID = []
    #expect(try program.frames("hidden").map(\.seen) == [ExpectedFrame()])
    let plain = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g", "-Wl,--build-id=none"])
    #expect(try plain.frames("hidden").map(\.seen) == [ExpectedFrame()])
  }

  @Test(
    "a module without a file gives its address and name",
    arguments: ["[vdso]", "linux-vdso.so.1", "", "/nonexistent/program", "/dev/zero", "/", "relative/path"])
  func noFile(_ path: String) {
    let module = ModuleReference(path: ForeignText(path), buildID: [1, 2, 3], start: 0x1000, end: 0x3000, bias: 0x1000)
    let symbolizer = Symbolizer()
    let loss: NameLoss = path.hasPrefix("/") ? .gone : .noPath
    let place = Frame.FilePlace(address: 0xFFF, buildID: [1, 2, 3])
    let bare = Frame(pc: 0x2000, module: ForeignText(path), place: place, unnamed: loss)
    #expect(symbolizer.frames(returnAddress: 0x2000, in: module) == [bare])
    #expect(symbolizer.staticSymbol(at: 0x2000, in: module) == nil)
  }

  @Test("a FIFO in the place of a module's file stops nobody")
  func fifo() throws {
    let folder = try TestDirectory()
    try run("mkfifo", ["\(folder.path)/fifo"])
    let module = ModuleReference(
      path: "\(folder.path)/fifo", buildID: [1, 2], start: 0x1000, end: 0x3000, bias: 0x1000)
    #expect(Symbolizer().frames(returnAddress: 0x2000, in: module).map(\.function) == [nil])
  }
}
