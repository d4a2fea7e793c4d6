// SPDX-License-Identifier: Apache-2.0
// The forms in which compilers, linkers and packagers write the same debug information: each gives the same answers as
// the plain one, and a part that is missing or damaged is said.

import Foundation
import Symbols
import TestSupport
import Testing

/// How a program is built, and what is done to it then.
struct DebugForm: CustomTestStringConvertible, Sendable {
  enum Step: Sendable {
    /// The sections are packed by objcopy.
    case compress(String)
    /// The .dwo files are put into a package, by this tool, and removed.
    case package(String)
  }
  var compiler: String
  var arguments: [String]
  var step: Step?
  var testDescription: String { ([compiler] + arguments).joined(separator: " ") + (step.map { ", \($0)" } ?? "") }

  init(_ compiler: String, _ arguments: String, _ step: Step? = nil) {
    self.compiler = compiler
    self.arguments = arguments.split(separator: " ").map { String($0) }
    self.step = step
  }

  var isPossible: Bool {
    switch step {
    case .package(let tool): findTool(tool) != nil
    default: true
    }
  }

  func build(_ source: String) throws -> TestProgram {
    let linker = compiler.hasPrefix("clang") ? ["-Wl,--build-id"] : []
    let program = try TestProgram(source, compiler: compiler, arguments + linker)
    switch step {
    case .compress(let kind)?: try run("objcopy", ["--compress-debug-sections=\(kind)", program.path])
    case .package(let tool)?:
      try run(tool, ["-e", program.path, "-o", "\(program.path).dwp"])
      try program.removeSplitFiles()
    case nil: break
    }
    return program
  }
}

extension TestProgram {
  var splitFiles: [String] {
    get throws {
      try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { $0.hasSuffix(".dwo") }
        .map { "\(folder.path)/\($0)" }
    }
  }

  func removeSplitFiles() throws {
    for file in try splitFiles { try FileManager.default.removeItem(atPath: file) }
  }

  func variable(_ probe: String, _ symbolizer: Symbolizer = Symbolizer(debugRoots: [])) throws -> Variable? {
    symbolizer.variable(at: try #require(probes[probe]) + Self.bias, in: module)
  }
}

@Suite(.bounded) struct DebugFormTests {
  private static let forms: [DebugForm] = [
    DebugForm("g++", "-O1 -gdwarf-4"), DebugForm("g++", "-O1 -gdwarf-5"),
    DebugForm("g++", "-O1 -gdwarf-5 -gdwarf64"),
    DebugForm("g++", "-O1 -gdwarf-5 -fdebug-types-section"), DebugForm("g++", "-O1 -gdwarf-4 -fdebug-types-section"),
    DebugForm("g++", "-O1 -g -flto"), DebugForm("g++", "-O1 -g -gz=zlib"),
    DebugForm("g++", "-O1 -g", .compress("zlib-gnu")), DebugForm("g++", "-O1 -g", .compress("zstd")),
    DebugForm("g++", "-O1 -gdwarf-5 -fdebug-types-section", .compress("zstd")),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf"), DebugForm("g++", "-O1 -gdwarf-4 -gsplit-dwarf"),
    DebugForm("g++", "-O2 -gdwarf-4 -gsplit-dwarf -ffunction-sections"),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf", .compress("zstd")),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf -gz"),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf -fdebug-types-section"),
    DebugForm("g++", "-O1 -gdwarf-4 -gsplit-dwarf -fdebug-types-section"),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf", .package("llvm-dwp")),
    DebugForm("g++", "-O1 -gdwarf-4 -gsplit-dwarf", .package("dwp")),
    DebugForm("g++", "-O2 -gdwarf-4 -gsplit-dwarf -fdebug-types-section", .package("dwp")),
    DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf -fdebug-types-section", .package("llvm-dwp")),
    DebugForm("clang++", "-O1 -g -fstandalone-debug"), DebugForm("clang++", "-O1 -g -gpubnames -fstandalone-debug"),
    DebugForm("clang++", "-O1 -g -fstandalone-debug -flto=thin -fuse-ld=lld"),
    DebugForm("clang++", "-O1 -g -fstandalone-debug -gsimple-template-names"),
    DebugForm("clang++", "-O1 -gdwarf-5 -gsplit-dwarf -fstandalone-debug"),
    DebugForm("clang++", "-O1 -gdwarf-4 -gsplit-dwarf -fstandalone-debug"),
    DebugForm("clang++", "-O1 -gdwarf-5 -gsplit-dwarf -fdebug-types-section -fstandalone-debug"),
    DebugForm("clang++", "-O1 -gdwarf-4 -gsplit-dwarf -fdebug-types-section -fstandalone-debug", .package("dwp")),
    DebugForm("clang++", "-O1 -gdwarf-5 -gsplit-dwarf -fstandalone-debug", .package("llvm-dwp")),
  ]

  @Test("functions, lines and inlined calls", arguments: forms.filter(\.isPossible))
  func functions(_ form: DebugForm) throws {
    let program = try form.build("templates.cpp")
    let symbolizer = Symbolizer(debugRoots: [])
    let template = try program.frames("template", symbolizer).map(\.seen)
    #expect(template.count == 2)
    let name = template.first?.function
    #expect(name == "int shop::times<7>(int)" || name == "shop::times<7>" || name == "int shop::times(int)")
    #expect(try template.first?.line == program.line("times"))
    #expect(template.first?.inlined == true)
    #expect(
      try template.last == ExpectedFrame(function: "run(int)", file: "templates.cpp", line: program.line("run")))
    let method = try #require(try program.frames("method", symbolizer).first)
    #expect(method.function?.hasPrefix("shop::Shelf<") == true && method.function?.contains("::put(") == true)
    #expect(try method.line == program.line("method"))
    #expect(method.problem == nil)
    // The constructor is inlined into main, its members' into it.
    let constructor = try program.frames("constructor", symbolizer)
    #expect(constructor.first?.function?.contains("::Shelf") == true)
    #expect(constructor.last?.function == "main" || constructor.count == 1)
  }

  @Test("variables, down to the member", arguments: forms.filter(\.isPossible))
  func variables(_ form: DebugForm) throws {
    let program = try form.build("variables.cpp")
    let symbolizer = Symbolizer(debugRoots: [])
    #expect(program.probes.count >= 17)
    for (name, _) in program.probes {
      // The length that an initializer gives an open array is not in what clang compiles.
      if form.compiler == "clang++", name.hasPrefix("flexible") { continue }
      let found = try #require(try program.variable(name, symbolizer), "\(name)")
      let paths = ([found.path] + found.alternatives).map {
        $0.unescaped.replacingOccurrences(of: "(anonymous namespace)::", with: "")
      }
      #expect(
        paths.contains { $0 == name || $0.hasSuffix("::\(name)") || $0.hasPrefix("\(name).") }, "\(name): \(paths)")
      #expect(found.file?.hasSuffix("variables.cpp") == true, "\(name): \(found.file ?? "no file")")
    }
    #expect(symbolizer.variableProblem(in: program.module) == nil)
  }

  // MARK: what a function is declared in

  @Test(
    "a function without a mangled name keeps its scope",
    arguments: [
      DebugForm("g++", "-O1 -g"), DebugForm("g++", "-O2 -gdwarf-4"), DebugForm("g++", "-O1 -g -gsplit-dwarf"),
      DebugForm("g++", "-O1 -gdwarf-4 -gsplit-dwarf"), DebugForm("g++", "-O1 -g -flto"),
      DebugForm("g++", "-O1 -g -fdebug-types-section"), DebugForm("clang++", "-O1 -g"),
    ])
  func scopes(_ form: DebugForm) throws {
    let program = try form.build("scopes.cpp")
    let symbolizer = Symbolizer(debugRoots: [])
    for (probe, scope, name) in [
      ("static-member", "outer::(anonymous namespace)::Hidden::", "get"),
      ("conversion", "outer::(anonymous namespace)::Hidden::", "operator int"),
      ("less", "outer::(anonymous namespace)::Hidden::", "operator<"),
      ("free-function", "outer::inner::", "free_function"), ("template", "outer::", "generic<long"),
      ("local-class", "local", "::Local::make"), ("lambda", "local", "::operator()"),
    ] {
      let frame = try #require(try program.frames(probe, symbolizer).first)
      let function = try #require(frame.function)
      #expect(function.contains("\(scope)") && function.contains(name), "\(probe): \(function)")
      #expect(try frame.line == program.line(probe), "\(probe)")
    }
    let lambda = try #require(try program.frames("lambda", symbolizer).first?.function)
    #expect(lambda.contains("::{lambda") || lambda.contains("::$_0"), "\(lambda)")
  }

  // MARK: parts that are elsewhere

  @Test("a .dwo file is found where it was compiled, beside the program, and below a debug root")
  func splitFilePlaces() throws {
    let program = try DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf").build("templates.cpp")
    let file = try #require(try program.splitFiles.first)
    let names = ["int shop::times<7>(int)", "run(int)"]
    let inlined = try program.frames("template", Symbolizer(debugRoots: [])).map(\.function?.unescaped)
    #expect(inlined == ["shop::times<7>", "run(int)"] || inlined == names)
    let root = "\(program.folder.path)/root"
    let below = "\(root)\(file)"
    try FileManager.default.createDirectory(
      atPath: URL(fileURLWithPath: below).deletingLastPathComponent().path, withIntermediateDirectories: true)
    try FileManager.default.moveItem(atPath: file, toPath: below)
    #expect(try program.frames("template", Symbolizer(debugRoots: [])).map(\.function) == ["run(int)"])
    #expect(try program.frames("template", Symbolizer(debugRoots: [root])).map(\.function?.unescaped) == inlined)
    // The program and its .dwo file, moved together.
    let other = try TestDirectory()
    var moved = program.module
    moved.path = "\(other.path)/program"
    try FileManager.default.moveItem(atPath: program.path, toPath: moved.path.unescaped)
    let name = try #require(file.split(separator: "/").last)
    try FileManager.default.moveItem(atPath: below, toPath: "\(other.path)/\(name)")
    let address = try #require(program.probes["template"]) + TestProgram.bias
    #expect(
      Symbolizer(debugRoots: []).frames(returnAddress: address, in: moved).map(\.function?.unescaped) == inlined)
  }

  @Test(
    "a program that was stripped, its skeletons in a debug file: the package is found beside either",
    .enabled(if: findTool("dwp") != nil))
  func strippedWithPackage() throws {
    let program = try DebugForm("g++", "-O1 -gdwarf-4 -gsplit-dwarf", .package("dwp")).build("templates.cpp")
    let expected = try program.frames("template", Symbolizer(debugRoots: [])).map(\.function)
    #expect(expected.count == 2)
    try run("objcopy", ["--only-keep-debug", program.path, "\(program.path).debug"])
    try run("strip", [program.path])
    try run("objcopy", ["--add-gnu-debuglink=\(program.path).debug", program.path])
    #expect(try program.frames("template", Symbolizer(debugRoots: [])).map(\.function) == expected)
    try FileManager.default.moveItem(atPath: "\(program.path).dwp", toPath: "\(program.path).debug.dwp")
    #expect(try program.frames("template", Symbolizer(debugRoots: [])).map(\.function) == expected)
  }

  @Test("a .dwo file that is missing, of another build, or damaged is said with its path; lines stay")
  func missingSplitFile() throws {
    let program = try DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf").build("templates.cpp")
    let other = try DebugForm("g++", "-O1 -gdwarf-5 -gsplit-dwarf -DOTHER").build("variables.cpp")
    let file = try #require(try program.splitFiles.first)
    let whole = try Data(contentsOf: URL(fileURLWithPath: file))
    for (contents, word) in [
      (nil, "missing"), (try Data(contentsOf: URL(fileURLWithPath: try #require(try other.splitFiles.first))), "build"),
      (whole.prefix(400), "build"), (Data(), "missing"), (Data(repeating: 0x7F, count: 5000), "missing"),
    ] as [(Data?, String)] {
      try FileManager.default.removeItem(atPath: file)
      try contents?.write(to: URL(fileURLWithPath: file))
      let symbolizer = Symbolizer(debugRoots: [])
      let frame = try #require(try program.frames("template", symbolizer).first)
      #expect(frame.function == "run(int)")
      #expect(frame.file?.hasSuffix("templates.cpp") == true && frame.line != nil)
      #expect(frame.problem?.contains(word) == true && frame.problem?.contains(file) == true, "\(frame.problem ?? "-")")
      let table = try program.symbol("_ZN4shopL5tableE").address + TestProgram.bias
      #expect(symbolizer.variable(at: table, in: program.module) == nil)
      #expect(symbolizer.variableProblem(in: program.module)?.contains(file) == true)
      if contents == nil { try Data().write(to: URL(fileURLWithPath: file)) }
    }
  }

  @Test("sections that can't be unpacked are said")
  func damagedForms() throws {
    let program = try DebugForm("g++", "-O1 -g", .compress("zstd")).build("templates.cpp")
    let path = URL(fileURLWithPath: program.path)
    var bytes = try Data(contentsOf: path)
    // Each section has a frame of zstd, which begins with this number. What no name needs is not unpacked, so that all
    // are damaged.
    let magic = Data([0x28, 0xB5, 0x2F, 0xFD])
    var frames = 0
    while let frame = bytes.range(of: magic) {
      bytes.replaceSubrange(frame, with: Data([1, 2, 3, 4]))
      frames += 1
    }
    try #require(frames > 2)
    try bytes.write(to: path)
    let damaged = try #require(try program.frames("template", Symbolizer(debugRoots: [])).first)
    #expect(damaged.function == "run(int)" && damaged.problem?.contains("damaged") == true)
  }

  @Test("DWARF whose common part is gone is said", .enabled(if: findTool("dwz") != nil))
  func commonPartGone() throws {
    let shared = try DebugForm("g++", "-O1 -g").build("templates.cpp")
    let common = "\(shared.folder.path)/common"
    try FileManager.default.copyItem(atPath: shared.path, toPath: "\(shared.path)2")
    try run("dwz", ["-m", common, "-M", common, shared.path, "\(shared.path)2"])
    #expect(try shared.frames("template", Symbolizer(debugRoots: [])).count == 2)
    try FileManager.default.removeItem(atPath: common)
    let gone = try #require(try shared.frames("template", Symbolizer(debugRoots: [])).first)
    #expect(gone.problem?.contains(common) == true)
  }

  // MARK: mini debug information

  /// Strips the program but for symbols in .gnu_debugdata.
  private func pack(_ program: TestProgram) throws {
    let mini = "\(program.folder.path)/mini"
    try run("objcopy", ["--only-keep-debug", program.path, "\(mini).debug"])
    try run("objcopy", ["--strip-debug", "--remove-section=.comment", "\(mini).debug", mini])
    try run("strip", [program.path])
    try run("xz", [mini])
    try run("objcopy", ["--add-section", ".gnu_debugdata=\(mini).xz", program.path])
  }

  @Test("symbols of a stripped program come from its mini debug information")
  func miniDebugInformation() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2"])
    try pack(program)
    let symbolizer = Symbolizer(debugRoots: [])
    #expect(try program.frames("hidden", symbolizer).map(\.seen) == [ExpectedFrame(function: "hidden")])
    #expect(try program.frames("inlined", symbolizer).map(\.function) == ["outer"])
  }

  @Test("mini debug information that is damaged is said", arguments: [0, 6, 100, 300])
  func damagedMini(_ place: Int) throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2"])
    try pack(program)
    let path = URL(fileURLWithPath: program.path)
    var bytes = try Data(contentsOf: path)
    let start = try #require(bytes.range(of: Data([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0]))).lowerBound
    for index in 0..<8 { bytes[start + place + index] ^= 0x5A }
    try bytes.write(to: path)
    let frame = try #require(try program.frames("hidden", Symbolizer(debugRoots: [])).first)
    #expect(frame.function == nil && frame.problem?.contains(".gnu_debugdata") == true)
  }

  // MARK: build ids

  @Test(
    "a build id of any length proves a file",
    arguments: ["0xa5", "0x0102030405060708", "md5", "sha1", "0x" + String(repeating: "5a", count: 32)])
  func buildIDs(_ kind: String) throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g", "-Wl,--build-id=\(kind)"])
    // readelf does not read all of them.
    let id = kind.dropFirst(2)
    let given = stride(from: 0, to: id.count, by: 2).compactMap { UInt8(id.dropFirst($0).prefix(2), radix: 16) }
    var module = program.module
    if kind.hasPrefix("0x") { module.buildID = given }
    try #require(!module.buildID.isEmpty)
    let address = try #require(program.probes["inlined"]) + TestProgram.bias
    let names = ["innermost", "middle", "outer"]
    #expect(Symbolizer(debugRoots: []).frames(returnAddress: address, in: module).map(\.function?.unescaped) == names)
    module.buildID[0] ^= 1
    #expect(Symbolizer(debugRoots: []).frames(returnAddress: address, in: module).first?.function == nil)
  }

  // MARK: frames without a name

  @Test("a frame without a name has the address that addr2line takes, and the build id")
  func places() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g"])
    let twin = "\(program.folder.path)/twin"
    try FileManager.default.copyItem(atPath: program.path, toPath: twin)
    try run("strip", ["--strip-all", program.path])
    let frame = try #require(try program.frames("hidden", Symbolizer(debugRoots: [])).first)
    let place = try #require(frame.place)
    #expect(frame.function == nil && place.buildID == program.buildID)
    #expect(frame.placeName == "program+0x\(String(place.address, radix: 16))")
    let lines = try run("addr2line", ["-f", "-e", twin, "0x\(String(place.address, radix: 16))"])
      .split(separator: "\n")
    #expect(lines.first == "hidden")
    #expect(try lines.last?.hasSuffix("plain.c:\(program.line("hidden"))") == true, "\(lines)")
  }
}
