// DynamicSymbols: the symbols that a loaded module defines for others, by hand from its hash tables: dlsym may allocate.

import AgentMachine

/// What DT_SYMTAB, DT_STRTAB and a hash table say of one module (System V ABI, and DT_GNU_HASH as in binutils).
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

  /// What a module defines under a name.
  struct Symbol {
    var address: UInt64
    /// Bytes; 0 if it is not known.
    var size: UInt64
    /// STT_FUNC, STT_GNU_IFUNC, …
    var type: UInt8
  }
  static let function: UInt8 = 2
  static let indirectFunction: UInt8 = 10

  func symbol(of name: UnsafePointer<CChar>) -> Symbol? {
    if let gnuHash { return lookUpGNU(name, gnuHash) }
    if let hash { return lookUpSystemV(name, hash) }
    return nil
  }

  /// Whether the module wants `name` of another one.
  func imports(_ name: StaticString) -> Bool {
    let name = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
    // What is not in the hash table comes first.
    guard let count = gnuHash?[1] ?? hash?[1] else { return false }
    for index in 0..<Int(count) where symbols[index].st_shndx == 0 {
      if StaticSymbols.isEqual(strings + Int(symbols[index].st_name), name) { return true }
    }
    return false
  }

  private func lookUpGNU(_ name: UnsafePointer<CChar>, _ table: UnsafePointer<UInt32>) -> Symbol? {
    var code: UInt32 = 5381
    var character = name
    while character.pointee != 0 {
      code = code &* 33 &+ UInt32(UInt8(bitPattern: character.pointee))
      character += 1
    }
    let bucketCount = table[0]
    let firstSymbol = table[1]
    let filterWords = table[2]
    guard bucketCount != 0 else { return nil }
    let buckets = table + 4 + Int(filterWords) * 2
    let chains = buckets + Int(bucketCount)
    var index = buckets[Int(code % bucketCount)]
    guard index >= firstSymbol else { return nil }
    while true {
      let chain = chains[Int(index - firstSymbol)]
      if chain | 1 == code | 1, let symbol = definition(Int(index), name) { return symbol }
      if chain & 1 != 0 { return nil }
      index += 1
    }
  }

  private func lookUpSystemV(_ name: UnsafePointer<CChar>, _ table: UnsafePointer<UInt32>) -> Symbol? {
    var code: UInt32 = 0
    var character = name
    while character.pointee != 0 {
      code = (code << 4) &+ UInt32(UInt8(bitPattern: character.pointee))
      let high = code & 0xF000_0000
      code = (code ^ (high >> 24)) & ~high
      character += 1
    }
    let bucketCount = table[0]
    guard bucketCount != 0 else { return nil }
    let chains = table + 2 + Int(bucketCount)
    var index = table[2 + Int(code % bucketCount)]
    while index != 0 {
      if let symbol = definition(Int(index), name) { return symbol }
      index = chains[Int(index)]
    }
    return nil
  }

  private func definition(_ index: Int, _ name: UnsafePointer<CChar>) -> Symbol? {
    let symbol = symbols[index]
    guard symbol.st_shndx != 0, symbol.st_value != 0 else { return nil }
    var expected = name
    var found = strings + Int(symbol.st_name)
    while expected.pointee == found.pointee {
      if expected.pointee == 0 {
        return Symbol(
          address: UInt64(bias &+ UInt(symbol.st_value)), size: symbol.st_size, type: symbol.st_info & 15)
      }
      expected += 1
      found += 1
    }
    return nil
  }
}
