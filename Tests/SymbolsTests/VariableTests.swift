// SPDX-License-Identifier: Apache-2.0
// Variables by their addresses, down to the member: against what the program says of itself, and with debug information
// that is made to mislead.

import Foundation
import Symbols
import TestSupport
import Testing

@Suite(.bounded) struct VariableTests {
  @Test(
    "each address answers the member that the source names",
    arguments: [
      ("g++", ["-g", "-O1"]), ("g++", ["-g", "-gdwarf-4", "-O0"]), ("g++", ["-g3", "-O2"]),
      // Else clang describes a class with virtual functions only where its first one is defined, which may be nowhere;
      // and its linker, unlike gcc's, gives a file no build id unless it is asked.
      ("clang++", ["-g", "-fstandalone-debug", "-O1", "-Wl,--build-id"]),
      ("clang++", ["-g", "-fstandalone-debug", "-gdwarf-4", "-O2", "-Wl,--build-id"]),
    ])
  func members(_ compiler: String, _ options: [String]) throws {
    let program = try TestProgram("variables.cpp", compiler: compiler, options)
    let symbolizer = Symbolizer(debugRoots: [])
    #expect(program.probes.count >= 17)
    for (name, address) in program.probes {
      // The length that an initializer gives an open array is not in what clang compiles.
      if compiler == "clang++", name.hasPrefix("flexible") { continue }
      let found = try #require(
        symbolizer.variable(at: address + TestProgram.bias, in: program.module), "\(name), \(compiler) \(options)")
      // Where the program stands in a namespace or function, its source leaves the scope out; a whole structure's
      // address is that of its first member; of a union any member will do.
      let paths = ([found.path] + found.alternatives).map(\.unescaped)
      #expect(
        paths.contains { path in
          let plain = path.replacingOccurrences(of: "(anonymous namespace)::", with: "")
          return plain == name || plain.hasSuffix("::\(name)") || plain.hasPrefix("\(name).")
        }, "\(name): \(paths), \(compiler) \(options)")
      #expect(found.file?.hasSuffix("variables.cpp") == true, "\(name)")
    }
  }

  @Test("types are written as in the source")
  func types() throws {
    let program = try TestProgram("variables.cpp", compiler: "g++", ["-g"])
    let symbolizer = Symbolizer(debugRoots: [])
    for (name, type) in [
      ("space::derived.next", "Derived *"), ("function_pointer", "int (*)(const char *, ...)"), ("color", "Color"),
      ("pointer_to_volatile", "volatile int * volatile"), ("space::box.pointer", "Inner *"),
      ("space::derived.array[1][2]", "short int"),
    ] {
      let address = try #require(program.probes[name])
      let found = symbolizer.variable(at: address + TestProgram.bias, in: program.module)
      #expect(found?.type?.unescaped == type, "\(name)")
    }
    let bits = try #require(program.probes["bits.number"])
    let second = try #require(symbolizer.variable(at: bits + 1 + TestProgram.bias, in: program.module))
    #expect(second.path == "bits.fields.b" && second.type == "unsigned int : 13")
    #expect(second.alternatives == ["bits.number"])
  }

  @Test("debug information in a file of its own, and shared by dwz, is used")
  func separate() throws {
    let program = try TestProgram("variables.cpp", compiler: "g++", ["-g"])
    let address = try #require(program.probes["space::derived.own"]) + TestProgram.bias
    try run("objcopy", ["--only-keep-debug", program.path, program.path + ".debug"])
    try run("objcopy", ["--strip-debug", "--add-gnu-debuglink=\(program.path).debug", program.path])
    #expect(Symbolizer(debugRoots: []).variable(at: address, in: program.module)?.path == "space::derived.own")
    try FileManager.default.removeItem(atPath: program.path + ".debug")
    #expect(Symbolizer(debugRoots: []).variable(at: address, in: program.module) == nil)
    #expect(Symbolizer(debugRoots: []).staticSymbol(at: address, in: program.module)?.name == "space::derived")
  }

  @Test("Rust statics answer with their fields", .enabled(if: findTool("rustc") != nil))
  func rust() throws {
    let folder = try TestDirectory()
    let source = "\(folder.path)/statics.rs"
    try """
    pub struct Inner { pub len: u64, pub names: [u16; 4] }
    pub struct Server { pub port: u32, pub inner: Inner, pub choice: Option<u64> }
    #[no_mangle] pub static mut SERVER: Server =
      Server { port: 1, inner: Inner { len: 2, names: [1, 2, 3, 4] }, choice: Some(3) };
    fn main() { unsafe { let p = &raw mut SERVER; (*p).port += 1; println!("{}", (*p).port); } }
    """.write(toFile: source, atomically: false, encoding: .utf8)
    let path = "\(folder.path)/statics"
    try run("rustc", ["-g", source, "-o", path])
    let line = try run("nm", [path]).split(separator: "\n").first { $0.hasSuffix(" SERVER") }
    let start = try #require(line.flatMap { UInt64($0.split(separator: " ")[0], radix: 16) })
    let module = ModuleReference(
      path: ForeignText(path), buildID: try TestProgram.readBuildID(path), start: TestProgram.bias,
      end: TestProgram.bias + (1 << 32),
      bias: TestProgram.bias)
    let symbolizer = Symbolizer(debugRoots: [])
    // rustc orders the fields as it likes.
    let paths = Set(
      (0..<48).compactMap { symbolizer.variable(at: start + $0 + TestProgram.bias, in: module)?.path })
    for name in ["port", "inner.len", "inner.names[3]"] {
      #expect(paths.contains { $0.hasSuffix("SERVER.\(name)") }, "\(name) in \(paths)")
    }
  }

  // MARK: hostile debug information

  /// A program whose debug information is this assembly: abbreviations, and the entries below the unit. Types are
  /// referred to by labels.
  private func assemble(_ abbreviations: String, _ entries: String) throws -> (TestProgram.Hostile, UInt64) {
    try TestProgram.Hostile.make(abbreviations, entries)
  }

  private static let abbreviations = """
    .uleb128 2; .uleb128 0x34; .byte 0            # variable: name, type, location
    .uleb128 0x03; .uleb128 0x08; .uleb128 0x49; .uleb128 0x13; .uleb128 0x02; .uleb128 0x18; .byte 0; .byte 0
    .uleb128 3; .uleb128 0x16; .byte 0            # typedef: name, type
    .uleb128 0x03; .uleb128 0x08; .uleb128 0x49; .uleb128 0x13; .byte 0; .byte 0
    .uleb128 4; .uleb128 0x13; .byte 1            # structure: name, size, members
    .uleb128 0x03; .uleb128 0x08; .uleb128 0x0b; .uleb128 0x07; .byte 0; .byte 0
    .uleb128 5; .uleb128 0x0d; .byte 0            # member: name, type, place
    .uleb128 0x03; .uleb128 0x08; .uleb128 0x49; .uleb128 0x13; .uleb128 0x38; .uleb128 0x07; .byte 0; .byte 0
    .uleb128 6; .uleb128 0x01; .byte 1            # array: type
    .uleb128 0x49; .uleb128 0x13; .byte 0; .byte 0
    .uleb128 7; .uleb128 0x21; .byte 0            # subrange: upper bound
    .uleb128 0x2f; .uleb128 0x07; .byte 0; .byte 0
    .uleb128 8; .uleb128 0x24; .byte 0            # base type: name, size
    .uleb128 0x03; .uleb128 0x08; .uleb128 0x0b; .uleb128 0x07; .byte 0; .byte 0
    .uleb128 9; .uleb128 0x0f; .byte 0            # pointer: type
    .uleb128 0x49; .uleb128 0x13; .byte 0; .byte 0
    """

  private static func variable(_ type: String) -> String {
    """
    .uleb128 2; .asciz "v"; .long \(type) - unit; .uleb128 9; .byte 3; .quad storage

    """
  }

  @Test(
    "types that contain themselves, or are larger than memory, end at a limit",
    arguments: [
      // A name for itself, and two for each other.
      "t: .uleb128 3; .asciz \"T\"; .long t - unit",
      "t: .uleb128 3; .asciz \"T\"; .long u - unit\nu: .uleb128 3; .asciz \"U\"; .long t - unit",
      // A structure that is its own first member, and an array of itself.
      "t: .uleb128 4; .asciz \"S\"; .quad 64\n.uleb128 5; .asciz \"m\"; .long t - unit; .quad 0\n.byte 0",
      "t: .uleb128 6; .long t - unit\n.uleb128 7; .quad 9\n.byte 0",
      // 2^62 elements of 2^62 elements; elements of no bytes; members beyond the end of memory.
      "t: .uleb128 6; .long u - unit\n.uleb128 7; .quad 0x3fffffffffffffff\n"
        + ".uleb128 7; .quad 0x3fffffffffffffff\n.byte 0\n"
        + "u: .uleb128 8; .asciz \"b\"; .quad 0x4000000000000000",
      "t: .uleb128 6; .long u - unit\n.uleb128 7; .quad 0xffffffffffffffff\n.byte 0\n"
        + "u: .uleb128 8; .asciz \"b\"; .quad 0",
      "t: .uleb128 4; .asciz \"S\"; .quad 0xffffffffffffffff\n"
        + ".uleb128 5; .asciz \"m\"; .long t - unit; .quad 0xffffffffffffffff\n.byte 0",
      // Pointers to pointers to themselves, whose name has no end; a type outside of the file.
      "t: .uleb128 9; .long t - unit",
      "t: .uleb128 9; .long 0x7ffffff0",
    ])
  func hostile(_ types: String) throws {
    let (program, storage) = try assemble(Self.abbreviations, Self.variable("t") + types)
    let symbolizer = Symbolizer(debugRoots: [])
    // Without a limit it would never end, and .bounded would end the run.
    for offset: UInt64 in [0, 1, 63, 4096] {
      let found = symbolizer.variable(at: storage + offset + TestProgram.bias, in: program.module)
      #expect((found?.path.utf8.count ?? 0) < 2000)
    }
  }

  @Test("thousands of nested structures are followed to a limit")
  func nesting() throws {
    var types = ""
    for level in 0..<3000 {
      types += """
        t\(level): .uleb128 4; .asciz "S"; .quad 64
        .uleb128 5; .asciz "m"; .long t\(level + 1) - unit; .quad 0
        .byte 0

        """
    }
    types += "t3000: .uleb128 8; .asciz \"int\"; .quad 4"
    let (program, storage) = try assemble(Self.abbreviations, Self.variable("t0") + types)
    let found = Symbolizer(debugRoots: []).variable(at: storage + TestProgram.bias, in: program.module)
    #expect(found?.path.hasPrefix("v.m.m.m") == true && (found?.path.utf8.count ?? 0) < 1000)
  }

  @Test("damaged debug information is survived")
  func damaged() throws {
    let program = try TestProgram("variables.cpp", compiler: "g++", ["-g", "-O1"])
    let whole = try Data(contentsOf: URL(fileURLWithPath: program.path))
    let id = try #require(whole.range(of: Data(program.buildID)))
    var numbers = RandomNumbers()
    func random(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &numbers) }
    for round in 0..<300 {
      var copy = whole
      for _ in 0...(round % 30) {
        let position = whole.count / 3 + random(whole.count * 2 / 3)
        if !id.contains(position) { copy[position] = [0, 0xFF, 0x7F, 0x80, UInt8(random(256))][random(5)] }
      }
      try copy.write(to: URL(fileURLWithPath: program.path))
      let symbolizer = Symbolizer(debugRoots: [])
      for address in program.probes.values {
        _ = symbolizer.variable(at: address + TestProgram.bias, in: program.module)
        _ = symbolizer.threadLocalVariable(atOffset: 0, in: program.module)
      }
    }
  }
}

extension TestProgram {
  /// A shared object of nothing but a variable and debug information in assembly.
  struct Hostile {
    let folder: TestDirectory
    let path: String
    let buildID: [UInt8]

    var module: ModuleReference {
      ModuleReference(
        path: ForeignText(path), buildID: buildID, start: TestProgram.bias, end: TestProgram.bias + (1 << 32),
        bias: TestProgram.bias
      )
    }

    /// `abbreviations` from number 2 on; `entries` below the unit. Also the address of the variable's storage.
    static func make(_ abbreviations: String, _ entries: String) throws -> (Hostile, UInt64) {
      let folder = try TestDirectory()
      let path = "\(folder.path)/hostile"
      let assembly = """
        .data
        .globl storage
        .type storage, @object
        .size storage, 64
        storage: .zero 64
        .section .debug_abbrev, "", @progbits
        .uleb128 1; .uleb128 0x11; .byte 1; .uleb128 0x13; .uleb128 0x0b; .byte 0; .byte 0
        \(abbreviations)
        .byte 0
        .section .debug_info, "", @progbits
        unit: .long unit_end - unit_start
        unit_start: .short 4; .long 0; .byte 8
        .uleb128 1; .byte 12
        \(entries)
        .byte 0
        unit_end:

        """
      try assembly.write(toFile: "\(path).s", atomically: false, encoding: .utf8)
      try run("gcc", ["-nostdlib", "-static", "-Wl,-e,0", "-Wl,--build-id", "\(path).s", "-o", path])
      let line = try run("nm", [path]).split(separator: "\n").first { $0.hasSuffix(" storage") }
      guard let line, let storage = UInt64(line.split(separator: " ")[0], radix: 16) else {
        throw HarnessError("no storage in \(path)")
      }
      return (Hostile(folder: folder, path: path, buildID: try TestProgram.readBuildID(path)), storage)
    }
  }
}
