// SPDX-License-Identifier: Apache-2.0
// StaticSymbols: functions of allocators in the static symbol table of the executable (.symtab),
// which also has the functions that the executable keeps to itself. The table is not in memory: it
// is read from the file that the process was started from, if the executable that is mapped is that
// file.
//
// A stripped file costs four system calls. In a file that is not stripped, each function's name is
// looked at, most names only at their first three bytes. The file may hold anything: nothing
// outside of it is read.

import AgentMachine

struct StaticSymbols {
  private var unread: UnsafePointer<Elf64_Sym>
  private let end: UnsafePointer<Elf64_Sym>
  private let strings: UnsafePointer<CChar>
  private let stringsSize: UInt64
  private let bias: UInt64
  private let mapping: UnsafeMutableRawPointer
  private let mappingSize: UInt64
  private var filter = Filter()

  /// nil if there is no such table, or it cannot be read.
  init?(_ module: UnsafeMutablePointer<link_map>) {
    let path: StaticString = "/proc/self/exe"
    let file = System.open(
      UnsafeRawPointer(path.utf8Start).assumingMemoryBound(to: CChar.self), System.OpenFlags.readOnly)
    guard file >= 0 else { return nil }
    defer { System.close(file) }
    guard let table = Self.findTable(file, module) else { return nil }
    let size = System.size(of: file)
    guard Self.isInside(table.symbols, size), Self.isInside(table.strings, size) else { return nil }
    let first = min(table.symbols.sh_offset, table.strings.sh_offset) & ~4095
    let last = max(table.symbols.sh_offset + table.symbols.sh_size, table.strings.sh_offset + table.strings.sh_size)
    guard let mapping = System.mapPrivately(file, at: first, last - first) else { return nil }
    self.mapping = mapping
    mappingSize = last - first
    let symbols = (mapping + Int(table.symbols.sh_offset - first)).assumingMemoryBound(to: Elf64_Sym.self)
    unread = UnsafePointer(symbols)
    end = UnsafePointer(symbols) + Int(table.symbols.sh_size) / MemoryLayout<Elf64_Sym>.size
    strings = UnsafePointer((mapping + Int(table.strings.sh_offset - first)).assumingMemoryBound(to: CChar.self))
    stringsSize = table.strings.sh_size
    bias = UInt64(module.pointee.l_addr)
    // Reading a last name without an end would go beyond the table.
    guard strings[Int(stringsSize) - 1] == 0 else {
      unmap()
      return nil
    }
  }

  mutating func unmap() { System.unmap(mapping, mappingSize) }

  /// The next function of the table of families.
  mutating func next() -> (
    family: UInt8, signature: UnsafePointer<allocs_signature>, token: UInt16, symbol: DynamicSymbols.Symbol
  )? {
    while unread < end {
      let symbol = unread
      unread += 1
      let type = symbol.pointee.st_info & 15
      guard type == DynamicSymbols.function || type == DynamicSymbols.indirectFunction,
        UInt64(symbol.pointee.st_name) + 3 < stringsSize
      else { continue }
      let name = strings + Int(symbol.pointee.st_name)
      guard filter.mayMatch(name), symbol.pointee.st_shndx != 0, symbol.pointee.st_shndx < 0xFF00,
        symbol.pointee.st_value != 0, let (family, signature, token) = Self.find(name)
      else { continue }
      let address = bias &+ symbol.pointee.st_value
      let size = symbol.pointee.st_size
      // A symbol that cannot be a function is left alone, and with it its family.
      let isFunction = isCode(address, size)
      return (
        family, signature, token,
        DynamicSymbols.Symbol(address: address, size: size, type: isFunction ? type : 0)
      )
    }
    return nil
  }

  /// The next function, whatever it is called.
  mutating func nextFunction() -> (name: UnsafePointer<CChar>, symbol: DynamicSymbols.Symbol)? {
    while unread < end {
      let symbol = unread
      unread += 1
      let type = symbol.pointee.st_info & 15
      guard type == DynamicSymbols.function, UInt64(symbol.pointee.st_name) < stringsSize,
        symbol.pointee.st_shndx != 0, symbol.pointee.st_shndx < 0xFF00, symbol.pointee.st_value != 0
      else { continue }
      let address = bias &+ symbol.pointee.st_value
      guard isCode(address, symbol.pointee.st_size) else { continue }
      return (
        strings + Int(symbol.pointee.st_name),
        DynamicSymbols.Symbol(address: address, size: symbol.pointee.st_size, type: type)
      )
    }
    return nil
  }

  private static func find(_ name: UnsafePointer<CChar>) -> (UInt8, UnsafePointer<allocs_signature>, UInt16)? {
    for family in 0..<UInt8(ALLOCS_FAMILY_COUNT) {
      var rest = name
      var prefix = allocs_family(UInt32(family)).pointee.prefix
      while prefix.pointee != 0, prefix.pointee == rest.pointee {
        prefix += 1
        rest += 1
      }
      guard prefix.pointee == 0 else { continue }
      let token = family == UInt8(ALLOCS_FAMILY_TOKEN) ? Self.token(&rest) : 0
      var index: UInt32 = 0
      while let signature = allocs_signature(index) {
        index += 1
        if signature.pointee.families >> UInt32(family) & 1 != 0, isEqual(signature.pointee.name, rest) {
          return (family, signature, token)
        }
      }
    }
    return nil
  }

  /// 1 + the number in front of an underscore, which is passed over; 0 if there is none.
  private static func token(_ text: inout UnsafePointer<CChar>) -> UInt16 {
    var number: UInt16 = 0
    var next = text
    while next.pointee >= 0x30, next.pointee <= 0x39, number < 1000 {
      number = number * 10 + UInt16(next.pointee - 0x30)
      next += 1
    }
    guard next != text, next.pointee == 0x5F else { return 0 }
    text = next + 1
    return number + 1
  }

  static func isEqual(_ one: UnsafePointer<CChar>, _ other: UnsafePointer<CChar>) -> Bool {
    var (one, other) = (one, other)
    while one.pointee == other.pointee {
      if one.pointee == 0 { return true }
      one += 1
      other += 1
    }
    return false
  }

  /// Whether all of the function lies in code of the executable: the table may say anything.
  private func isCode(_ address: UInt64, _ size: UInt64) -> Bool {
    let (end, overflow) = address.addingReportingOverflow(size)
    var (start, last): (UInt64, UInt64) = (0, 0)
    var map: UnsafeMutablePointer<link_map>?
    return !overflow && allocs_find_module(address, &start, &last, &map) && map == allocs_first_link_map()
      && end <= allocs_code_end(address)
  }

  // MARK: the table

  private static func isInside(_ section: Elf64_Shdr, _ size: Int) -> Bool {
    guard size > 0, section.sh_offset < UInt64(size) else { return false }
    return section.sh_size <= UInt64(size) - section.sh_offset
  }

  private static func findTable(
    _ file: Int, _ module: UnsafeMutablePointer<link_map>
  ) -> (symbols: Elf64_Shdr, strings: Elf64_Shdr)? {
    // The first page has the ELF header, the program headers, and nearly always the build id.
    var page = InlineArray<512, UInt64>(repeating: 0)
    return withUnsafeMutablePointer(to: &page) { page -> (symbols: Elf64_Shdr, strings: Elf64_Shdr)? in
      let bytes = UnsafeMutableRawPointer(page).assumingMemoryBound(to: UInt8.self)
      guard let header = isMapped(file, module, bytes), header.e_shentsize == MemoryLayout<Elf64_Shdr>.size,
        header.e_shoff < 1 << 40
      else { return nil }
      // The header of the symbol table is among the last: headers are read by the page, from the
      // end.
      let sections = UnsafeMutableRawPointer(page).assumingMemoryBound(to: Elf64_Shdr.self)
      var end = Int(header.e_shnum)
      while end > 0 {
        let start = max(0, end - 4096 / MemoryLayout<Elf64_Shdr>.size)
        guard read(file, header, start, end - start, bytes) else { return nil }
        for index in 0..<end - start where sections[index].sh_type == 2 /* SHT_SYMTAB */ {
          let symbols = sections[index]
          let names = Int(symbols.sh_link)
          guard names < Int(header.e_shnum), read(file, header, names, 1, bytes),
            sections[0].sh_type == 3 /* SHT_STRTAB */, sections[0].sh_size > 0,
            symbols.sh_entsize == UInt64(MemoryLayout<Elf64_Sym>.size), symbols.sh_offset % 8 == 0
          else { return nil }
          return (symbols, sections[0])
        }
        end = start
      }
      return nil
    }
  }

  private static func read(
    _ file: Int, _ header: Elf64_Ehdr, _ first: Int, _ count: Int, _ bytes: UnsafeMutablePointer<UInt8>
  ) -> Bool {
    let size = MemoryLayout<Elf64_Shdr>.size
    return System.read(file, bytes, count * size, at: header.e_shoff + UInt64(first * size)) == count * size
  }

  /// The ELF header, if the first page of the file equals the first page of the module in memory.
  private static func isMapped(
    _ file: Int, _ module: UnsafeMutablePointer<link_map>, _ page: UnsafeMutablePointer<UInt8>
  ) -> Elf64_Ehdr? {
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_module(UInt64(UInt(bitPattern: module.pointee.l_ld)), &start, &end, &map), map == module,
      let image = UnsafePointer<UInt8>(bitPattern: UInt(start))
    else { return nil }
    let count = System.read(file, page, 4096, at: 0)
    guard count >= MemoryLayout<Elf64_Ehdr>.size else { return nil }
    for index in 0..<count where page[index] != image[index] { return nil }
    let header = UnsafeRawPointer(page).load(as: Elf64_Ehdr.self)
    return header
  }
}

// MARK: the first three bytes

/// Which names may be in the table of families: a bit for the first three bytes of each of these
/// names, after mixing.
private struct Filter {
  private var bits = InlineArray<16, UInt64>(repeating: 0)

  init() {
    for family in 0..<UInt32(ALLOCS_FAMILY_COUNT) {
      var index: UInt32 = 0
      while let signature = allocs_signature(index) {
        index += 1
        guard signature.pointee.families >> family & 1 != 0 else { continue }
        var name = Text()
        name.append(cString: allocs_family(family).pointee.prefix)
        name.append(cString: signature.pointee.name)
        let bit = name.withCString { Self.bit($0) }
        bits[bit >> 6] |= 1 << UInt64(bit & 63)
      }
    }
  }

  @inline(__always)
  func mayMatch(_ name: UnsafePointer<CChar>) -> Bool {
    let bit = Self.bit(name)
    return bits[bit >> 6] >> UInt64(bit & 63) & 1 != 0
  }

  @inline(__always)
  private static func bit(_ name: UnsafePointer<CChar>) -> Int {
    let bytes = UnsafeRawPointer(name).loadUnaligned(as: UInt32.self) & 0xFF_FFFF
    return Int((bytes &* 0x9E37_79B9) >> 22)
  }
}
