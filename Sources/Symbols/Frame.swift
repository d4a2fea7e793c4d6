// SPDX-License-Identifier: Apache-2.0
// The answers of the symbolizer. A field that isn't known is nil, never guessed.

import ByteText

/// One function of a call stack; several frames share a `pc` where calls were inlined.
public struct Frame: Hashable, Sendable {
  /// The return address that was asked for.
  public var pc: UInt64
  /// Path of the module that holds it.
  public var module: ForeignText?
  /// Demangled name.
  public var function: ForeignText?
  /// Source file, as the compiler wrote it: absolute where it could be told.
  public var file: ForeignText?
  /// Line in `file`, from 1.
  public var line: Int?
  /// Whether this function was inlined into the next frame's.
  public var inlined: Bool
  /// Why the function is not known; nil if it is, or the module's file just has no name there.
  public var unnamed: NameLoss?
  /// Where a frame without a function is in its module's file.
  public var place: FilePlace?
  /// Why less is known than the module's files could tell; nil if nothing is in the way.
  public var problem: ForeignText?

  /// A place in the file of a module, by which a name can be found elsewhere: in an unstripped copy, on another
  /// machine.
  public struct FilePlace: Hashable, Sendable {
    /// The address that the file's own symbols use, which `addr2line` takes: of the call, not of what follows it.
    public var address: UInt64
    /// Empty if the module has none.
    public var buildID: [UInt8]

    public init(address: UInt64, buildID: [UInt8]) {
      self.address = address
      self.buildID = buildID
    }
  }

  public init(
    pc: UInt64, module: ForeignText?, function: ForeignText? = nil, file: ForeignText? = nil, line: Int? = nil,
    inlined: Bool = false, place: FilePlace? = nil, problem: ForeignText? = nil, unnamed: NameLoss? = nil
  ) {
    self.unnamed = unnamed
    self.pc = pc
    self.module = module
    self.function = function
    self.file = file
    self.line = line
    self.inlined = inlined
    self.place = place
    self.problem = problem
  }

  /// The text in place of the name of a function that is not known: `module+0x1234`; nil in no module.
  public var placeName: ForeignText? {
    guard let module, let place else { return nil }
    return "\(module.fileName)+0x\(String(place.address, radix: 16))"
  }

  /// In place of a module, of code that a process has made itself (CodeMap).
  public static let madeCode: ForeignText = "[jit]"

  /// Bytes of memory, about, for the budget of a cache.
  public var cost: Int {
    MemoryLayout<Frame>.stride &+ (function?.byteCount ?? 0) &+ (file?.byteCount ?? 0)
      &+ (place?.buildID.count ?? 0) &+ (problem?.byteCount ?? 0)
  }
}

/// The part of a variable that holds an address, by the debug information.
public struct Variable: Hashable, Sendable {
  /// As the source would name it: `server.clients[3].len`.
  public var path: ForeignText
  /// Its type, as the source would write it; nil if not known.
  public var type: ForeignText?
  /// Bytes from the part's start to the address.
  public var offset: UInt64
  /// Bytes of the part; nil if not known.
  public var size: UInt64?
  /// The address is between the members of `path`.
  public var isPadding: Bool
  /// Other names of the same byte: further members of a union, further bit-fields.
  public var alternatives: [ForeignText]
  /// Where the variable is declared.
  public var file: ForeignText?
  public var line: Int?

  public init(
    path: ForeignText, type: ForeignText?, offset: UInt64, size: UInt64?, isPadding: Bool = false,
    alternatives: [ForeignText] = [], file: ForeignText? = nil, line: Int? = nil
  ) {
    self.path = path
    self.type = type
    self.offset = offset
    self.size = size
    self.isPadding = isPadding
    self.alternatives = alternatives
    self.file = file
    self.line = line
  }
}

extension Variable {
  /// Puts the scope of the symbol's name before the path: a definition outside of its namespace's entry has none.
  mutating func qualify(by symbol: String) {
    let name = String(path.unescaped.prefix { $0 != "." && $0 != "[" })  // raw: compared with a symbol's name
    guard symbol != name, symbol.hasSuffix("::\(name)") else { return }
    let scope = ForeignText(symbol.dropLast(name.count))
    path = "\(scope)\(path)"
    alternatives = alternatives.map { "\(scope)\($0)" }
  }
}

/// A variable or function of a module, found in its symbol table.
public struct StaticSymbol: Hashable, Sendable {
  /// Demangled name, without a symbol version.
  public var name: ForeignText
  /// Bytes from the symbol's start to the address that was asked for.
  public var offset: UInt64
  /// Size in bytes; 0 where the symbol table gives none, as for functions written in assembly.
  public var size: UInt64
  /// Section that holds the address, such as `.data` or `.bss`.
  public var section: ForeignText?

  public init(name: ForeignText, offset: UInt64, size: UInt64, section: ForeignText?) {
    self.name = name
    self.offset = offset
    self.size = size
    self.section = section
  }
}
