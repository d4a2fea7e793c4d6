// SPDX-License-Identifier: Apache-2.0
// DynamicSymbols: the symbols that a loaded module defines for others. They are looked up by hand
// in its hash tables: dlsym may allocate.

import AgentMachine

/// A module's DT_SYMTAB, DT_STRTAB and hash table (System V ABI, and DT_GNU_HASH as in binutils).
struct DynamicSymbols {
  private var symbols: UnsafePointer<Elf64_Sym>
  private var strings: UnsafePointer<CChar>
  private var gnuHash: UnsafePointer<UInt32>?
  private var hash: UnsafePointer<UInt32>?
  private let bias: UInt

  init?(_ module: UnsafeMutablePointer<link_map>) {
    guard var entry = module.pointee.l_ld else { return nil }
    let bias = UInt(module.pointee.l_addr)
    var symbols: UInt = 0
    var strings: UInt = 0
    var gnuHash: UInt = 0
    var hash: UInt = 0
    while entry.pointee.d_tag != 0 {
      let value = UInt(entry.pointee.d_un.d_ptr)
      switch entry.pointee.d_tag {
      case 4: hash = value  // DT_HASH
      case 5: strings = value  // DT_STRTAB
      case 6: symbols = value  // DT_SYMTAB
      case 0x6fff_fef5: gnuHash = value  // DT_GNU_HASH
      default: break
      }
      entry += 1
    }
    // glibc relocates these in place, except in the vdso, whose dynamic section it may not write.
    func address(_ value: UInt) -> UInt { value != 0 && value < bias ? value &+ bias : value }
    guard let symbolTable = UnsafePointer<Elf64_Sym>(bitPattern: address(symbols)),
      let stringTable = UnsafePointer<CChar>(bitPattern: address(strings))
    else { return nil }
    self.symbols = symbolTable
    self.strings = stringTable
    self.gnuHash = UnsafePointer(bitPattern: address(gnuHash))
    self.hash = UnsafePointer(bitPattern: address(hash))
    self.bias = bias
  }

  /// Whether `module` is the agent as a library of its own.
  static func isAgent(_ module: UnsafeMutablePointer<link_map>) -> Bool { defines("allocs_agent", module) }
  /// Whether `module` is an executable that the agent is linked into.
  static func hasKit(_ module: UnsafeMutablePointer<link_map>) -> Bool { defines("allocs_inexe", module) }
  private static func defines(_ name: StaticString, _ module: UnsafeMutablePointer<link_map>) -> Bool {
    let name = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
    return DynamicSymbols(module)?.symbol(of: name) != nil
  }

  /// A module's definition of a name.
  struct Symbol {
    var address: UInt64
    /// Bytes; 0 if it is not known.
    var size: UInt64
    /// STT_FUNC, STT_GNU_IFUNC, …
    var type: UInt8
  }
  static let function: UInt8 = 2
  static let indirectFunction: UInt8 = 10

  /// The definition as the file has it, also where Definitions has changed it.
  func symbol(of name: UnsafePointer<CChar>) -> Symbol? {
    var found: Symbol?
    forEachDefinition(of: name) { entry in
      found = Symbol(
        address: UInt64(bias &+ UInt(Definitions.value(of: entry))), size: entry.pointee.st_size,
        type: entry.pointee.st_info & 15)
      return false
    }
    return found
  }

  /// Calls `body` with each entry of the table that defines `name`, of any version, until it
  /// returns false.
  func forEachDefinition(of name: UnsafePointer<CChar>, _ body: (UnsafePointer<Elf64_Sym>) -> Bool) {
    if let gnuHash { return lookUpGNU(name, gnuHash, body) }
    if let hash { lookUpSystemV(name, hash, body) }
  }

  /// Symbols that the module needs from others are among the first `importCount` of its table. They
  /// precede the symbols that are in the hash table; if the hash table is empty, all symbols count.
  /// Then their number follows from the names, which every linker puts right behind the symbols.
  var importCount: Int {
    guard let count = gnuHash?[1] ?? hash?[1] else { return 0 }
    guard let gnuHash, !hasHashed(gnuHash) else { return Int(count) }
    let room = Int(bitPattern: UInt(bitPattern: strings) &- UInt(bitPattern: symbols))
    let most = 1 << 20
    return room > 0 && room < most * MemoryLayout<Elf64_Sym>.stride ? room / MemoryLayout<Elf64_Sym>.stride : 0
  }
  private func hasHashed(_ table: UnsafePointer<UInt32>) -> Bool {
    let buckets = table + 4 + Int(table[2]) * 2
    for index in 0..<Int(table[0]) where buckets[index] != 0 { return true }
    return false
  }
  func name(of entry: UnsafePointer<Elf64_Sym>) -> UnsafePointer<CChar> { strings + Int(entry.pointee.st_name) }
  /// Whether `entry` is of this table. Every linker puts the table right below the names.
  func holds(_ entry: UnsafePointer<Elf64_Sym>) -> Bool {
    UInt(bitPattern: entry) >= UInt(bitPattern: symbols) && UInt(bitPattern: entry) < UInt(bitPattern: strings)
  }
  func entry(_ index: Int) -> UnsafePointer<Elf64_Sym> { symbols + index }

  /// Whether the module needs `name` from another module.
  func imports(_ name: StaticString) -> Bool {
    let name = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
    for index in 0..<importCount where symbols[index].st_shndx == 0 {
      if StaticSymbols.isEqual(strings + Int(symbols[index].st_name), name) { return true }
    }
    return false
  }

  private func lookUpGNU(
    _ name: UnsafePointer<CChar>, _ table: UnsafePointer<UInt32>, _ body: (UnsafePointer<Elf64_Sym>) -> Bool
  ) {
    var code: UInt32 = 5381
    var character = name
    while character.pointee != 0 {
      code = code &* 33 &+ UInt32(UInt8(bitPattern: character.pointee))
      character += 1
    }
    let bucketCount = table[0]
    let firstSymbol = table[1]
    let filterWords = table[2]
    guard bucketCount != 0 else { return }
    let buckets = table + 4 + Int(filterWords) * 2
    let chains = buckets + Int(bucketCount)
    var index = buckets[Int(code % bucketCount)]
    guard index >= firstSymbol else { return }
    while true {
      let chain = chains[Int(index - firstSymbol)]
      if chain | 1 == code | 1, defines(Int(index), name), !body(symbols + Int(index)) { return }
      if chain & 1 != 0 { return }
      index += 1
    }
  }

  private func lookUpSystemV(
    _ name: UnsafePointer<CChar>, _ table: UnsafePointer<UInt32>, _ body: (UnsafePointer<Elf64_Sym>) -> Bool
  ) {
    var code: UInt32 = 0
    var character = name
    while character.pointee != 0 {
      code = (code << 4) &+ UInt32(UInt8(bitPattern: character.pointee))
      let high = code & 0xF000_0000
      code = (code ^ (high >> 24)) & ~high
      character += 1
    }
    let bucketCount = table[0]
    guard bucketCount != 0 else { return }
    let chains = table + 2 + Int(bucketCount)
    var index = table[2 + Int(code % bucketCount)]
    while index != 0 {
      if defines(Int(index), name), !body(symbols + Int(index)) { return }
      index = chains[Int(index)]
    }
  }

  private func defines(_ index: Int, _ name: UnsafePointer<CChar>) -> Bool {
    let symbol = symbols[index]
    guard symbol.st_shndx != 0, symbol.st_value != 0 else { return false }
    var expected = name
    var found = strings + Int(symbol.st_name)
    while expected.pointee == found.pointee {
      if expected.pointee == 0 { return true }
      expected += 1
      found += 1
    }
    return false
  }
}
