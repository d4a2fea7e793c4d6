// SPDX-License-Identifier: Apache-2.0
// The ELF symbol tables of a module: which function or variable holds an address.
//
// Tables of the module's own file and of its debug file are merged (.symtab of either, .dynsym). Names stay in the
// files' string tables until they are asked for. Addresses are those of the ELF file. Not thread-safe: the owner
// holds a lock.
//
// The tables are anybody's: one of each kind is read of a file, and of each so many entries (ELFSymbol) of names in a
// table of so many bytes. What is left out is said.

import Bounds
import ByteText
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

  /// Bytes of string tables, which libelf holds.
  private let textCost: Int
  /// Why it has fewer symbols than the files; nil if it has all.
  private(set) var problem: String?
  /// Bytes of a string table.
  private static let textLimit: UInt64 = 512 << 20

  /// Bytes of memory, for the cache's budget.
  var cost: Int { madeCost &+ textCost }
  /// Of that, what isn't the file's.
  var madeCost: Int { sized.cost &+ unsized.cost &+ threadLocal.cost }

  /// `files`: the module's own file first, if it is there.
  init(files: [ObjectFile]) {
    var intervals: [IntervalIndex<Entry>.Interval] = []
    var starts: [IntervalIndex<Entry>.Interval] = []
    var threadLocal: [IntervalIndex<Entry>.Interval] = []
    var strings: [StringTable] = []
    var textCost = 0
    var memory = MemoryMeter(bytes: 3 &* MemoryLayout<IntervalIndex<Entry>.Interval>.stride)
    for file in files {
      let code = Self.code(of: file)
      for type in [SHT_SYMTAB, SHT_DYNSYM] {
        guard let section = file.sections.first(where: { $0.type == UInt32(truncatingIfNeeded: type) }) else {
          continue
        }
        guard let texts = file.sections.first(where: { $0.index == section.link }), texts.size <= Self.textLimit,
          texts.unpackedSize <= Self.textLimit
        else {
          problem = problem ?? "names are incomplete: the names of its symbol table are damaged, or too large"
          continue
        }
        // Reads the string table now, while the descriptor is open.
        guard elf_strptr(file.elf, section.link, 0) != nil else { continue }
        textCost &+= Int(clamping: texts.unpackedSize)
        let table = UInt16(truncatingIfNeeded: strings.count)
        strings.append(StringTable(file: file, section: section.link))
        let isWhole = Self.readSymbols(file, section) { symbol, isFunction in
          guard memory.goesOn() else { return false }
          let entry = Entry(name: symbol.name, size: symbol.size, table: table, rank: Self.rank(symbol))
          let start = symbol.value
          if Int32(truncatingIfNeeded: symbol.type) == STT_TLS {
            guard let end = (Foreign(start) + max(symbol.size, 1)).value else { return true }
            threadLocal.append(.init(start: start, end: end, payload: entry))
          } else if symbol.size > 0 {
            guard let end = (Foreign(start) + symbol.size).value else { return true }
            intervals.append(.init(start: start, end: end, payload: entry))
          } else if isFunction, let holder = code.innermost(at: start) {
            starts.append(.init(start: start, end: holder.end, payload: entry))
          }
          return true
        }
        if !isWhole { problem = problem ?? "names are incomplete: its symbol table is too large" }
      }
    }
    self.textCost = textCost
    sized = IntervalIndex(intervals) { $0.payload.rank > $1.payload.rank }
    unsized = IntervalIndex(starts) { $0.payload.rank > $1.payload.rank }
    self.threadLocal = IntervalIndex(threadLocal) { $0.payload.rank > $1.payload.rank }
    self.strings = strings
    sectionFile = files.first
  }

  /// The sections with code, by their addresses.
  private static func code(of file: ObjectFile) -> IntervalIndex<Void> {
    let intervals = file.sections.compactMap { section -> IntervalIndex<Void>.Interval? in
      guard section.isAllocated, section.isExecutable else { return nil }
      return (Foreign(section.address) + section.size).value.map { .init(start: section.address, end: $0, payload: ()) }
    }
    return IntervalIndex(intervals) { $0.end < $1.end }
  }

  /// Returns whether that was the whole table.
  private static func readSymbols(
    _ file: ObjectFile, _ section: ObjectFile.Section, _ body: (ELFSymbol, _ isFunction: Bool) -> Bool
  ) -> Bool {
    ELFSymbol.forEach(in: section, of: file) { symbol in
      guard symbol.name != 0, symbol.section != UInt16(SHN_UNDEF), symbol.section != UInt16(SHN_ABS) else {
        return true
      }
      switch Int32(truncatingIfNeeded: symbol.type) {
      case STT_FUNC, STT_GNU_IFUNC: return body(symbol, true)
      case STT_OBJECT, STT_COMMON, STT_TLS: return body(symbol, false)
      // Assembly that doesn't say what its labels are: of use only in code.
      case STT_NOTYPE: return body(symbol, true)
      default: return true
      }
    }
  }

  /// A typed symbol before an untyped one, then global, weak, local.
  private static func rank(_ symbol: ELFSymbol) -> UInt8 {
    let typed: UInt8 = Int32(truncatingIfNeeded: symbol.type) == STT_NOTYPE ? 0 : 4
    switch Int32(truncatingIfNeeded: symbol.binding) {
    case STB_GLOBAL: return typed | 2
    case STB_WEAK: return typed | 1
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
    let table = strings[Int(truncatingIfNeeded: found.payload.table)]
    guard let name = elf_strptr(table.file.elf, table.section, Int(truncatingIfNeeded: found.payload.name)),
      name[0] != 0
    else {
      return nil
    }
    return (UnsafePointer(name), found.start, found.payload.size)
  }

  /// The name of the section that holds `address`.
  func section(at address: UInt64) -> ForeignText? {
    guard let name = sectionFile?.section(at: address)?.name, !name.isEmpty else { return nil }
    return ForeignText(name)
  }
}
