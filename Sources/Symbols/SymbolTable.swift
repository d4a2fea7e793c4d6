// SPDX-License-Identifier: Apache-2.0
// The ELF symbol tables of a module: which function or variable holds an address.
//
// Tables of the module's own file and of its debug file are merged (.symtab of either, .dynsym). Names stay in the
// files' string tables until they are asked for. Addresses are those of the ELF file. Not thread-safe: the owner
// holds a lock.

import CLibdw

struct SymbolTable {
  private struct Entry {
    /// Offset of the name in the string table.
    var name: UInt32
    /// Size by the table, 0 if it gives none.
    var size: UInt64
    /// Index into `strings`.
    var table: UInt16
    /// Between two symbols at one address: the greater is the better name.
    var rank: UInt8
  }

  private struct StringTable {
    var file: ObjectFile
    var section: Int
  }

  private let sized: IntervalIndex<Entry>
  /// By their offsets in the thread-local storage.
  private let threadLocal: IntervalIndex<Entry>
  /// Functions without a size, as assembly often leaves them. Each lasts until the next symbol or the section's end.
  private let unsized: IntervalIndex<Entry>
  private let strings: [StringTable]
  private let sectionFile: ObjectFile?

  /// Bytes of memory, for the cache's budget.
  var cost: Int { sized.cost + unsized.cost + threadLocal.cost }

  /// `files`: the module's own file first, if it is there.
  init(files: [ObjectFile]) {
    var intervals: [IntervalIndex<Entry>.Interval] = []
    var starts: [IntervalIndex<Entry>.Interval] = []
    var threadLocal: [IntervalIndex<Entry>.Interval] = []
    var strings: [StringTable] = []
    for file in files {
      for section in file.sections where section.type == SHT_SYMTAB || section.type == SHT_DYNSYM {
        // Reads the string table now, while the descriptor is open.
        guard elf_strptr(file.elf, section.link, 0) != nil else { continue }
        let table = UInt16(truncatingIfNeeded: strings.count)
        guard strings.count < UInt16.max else { break }
        strings.append(StringTable(file: file, section: section.link))
        Self.readSymbols(file, section) { symbol, isFunction in
          let entry = Entry(
            name: symbol.st_name, size: symbol.st_size, table: table, rank: Self.rank(symbol))
          if Int32(symbol.st_info & 0xF) == STT_TLS {
            let (end, overflow) = symbol.st_value.addingReportingOverflow(max(symbol.st_size, 1))
            if !overflow { threadLocal.append(.init(start: symbol.st_value, end: end, payload: entry)) }
          } else if symbol.st_size > 0 {
            let (end, overflow) = symbol.st_value.addingReportingOverflow(symbol.st_size)
            if !overflow { intervals.append(.init(start: symbol.st_value, end: end, payload: entry)) }
          } else if isFunction, let holder = file.section(at: symbol.st_value), holder.isExecutable {
            starts.append(.init(start: symbol.st_value, end: holder.address &+ holder.size, payload: entry))
          }
        }
      }
    }
    sized = IntervalIndex(intervals) { $0.payload.rank > $1.payload.rank }
    unsized = IntervalIndex(starts) { $0.payload.rank > $1.payload.rank }
    self.threadLocal = IntervalIndex(threadLocal) { $0.payload.rank > $1.payload.rank }
    self.strings = strings
    sectionFile = files.first
  }

  private static func readSymbols(
    _ file: ObjectFile, _ section: ObjectFile.Section, _ body: (GElf_Sym, _ isFunction: Bool) -> Void
  ) {
    guard let holder = elf_getscn(file.elf, section.index), let data = elf_getdata(holder, nil) else { return }
    let entrySize = gelf_fsize(file.elf, ELF_T_SYM, 1, UInt32(EV_CURRENT))
    guard entrySize > 0 else { return }
    let count = min(data.pointee.d_size / entrySize, Int(Int32.max))
    var symbol = GElf_Sym()
    for index in 0..<count {
      guard gelf_getsym(data, Int32(index), &symbol) != nil else { return }
      guard symbol.st_name != 0, symbol.st_shndx != UInt16(SHN_UNDEF), symbol.st_shndx != UInt16(SHN_ABS) else {
        continue
      }
      switch Int32(symbol.st_info & 0xF) {
      case STT_FUNC, STT_GNU_IFUNC: body(symbol, true)
      case STT_OBJECT, STT_COMMON, STT_TLS: body(symbol, false)
      // Assembly that doesn't say what its labels are: of use only in code.
      case STT_NOTYPE: body(symbol, true)
      default: continue
      }
    }
  }

  /// A typed symbol before an untyped one, then global, weak, local.
  private static func rank(_ symbol: GElf_Sym) -> UInt8 {
    let typed: UInt8 = Int32(symbol.st_info & 0xF) == STT_NOTYPE ? 0 : 4
    switch Int32(symbol.st_info >> 4) {
    case STB_GLOBAL: return typed + 2
    case STB_WEAK: return typed + 1
    default: return typed
    }
  }

  /// The symbol that holds `address`, its name still mangled.
  func symbol(at address: UInt64) -> (name: UnsafePointer<CChar>, start: UInt64, size: UInt64)? {
    if let found = sized.innermost(at: address) { return named(found) }
    guard let found = unsized.innermost(at: address) else { return nil }
    // A sized symbol that begins and ends between the two shows that the label's code had ended before.
    if let next = sized.first(above: found.start), next.start <= address { return nil }
    return named(found)
  }

  /// The thread-local symbol at an offset in the module's thread-local storage, its name still mangled.
  func threadLocalSymbol(at offset: UInt64) -> (
    name: UnsafePointer<CChar>, start: UInt64, size: UInt64, isZeroed: Bool
  )? {
    guard let found = threadLocal.innermost(at: offset), let symbol = named(found) else { return nil }
    // The storage begins with what is initialized.
    let initialized = sectionFile?.sections.first { $0.isThreadLocal && $0.type != SHT_NOBITS }?.size ?? 0
    return (symbol.0, symbol.1, symbol.2, offset >= initialized)
  }

  private func named(_ found: IntervalIndex<Entry>.Interval) -> (UnsafePointer<CChar>, UInt64, UInt64)? {
    let table = strings[Int(found.payload.table)]
    guard let name = elf_strptr(table.file.elf, table.section, Int(found.payload.name)), name[0] != 0 else {
      return nil
    }
    return (UnsafePointer(name), found.start, found.payload.size)
  }

  /// The name of the section that holds `address`.
  func section(at address: UInt64) -> String? {
    guard let name = sectionFile?.section(at: address)?.name, !name.isEmpty else { return nil }
    return name
  }
}
