// SPDX-License-Identifier: Apache-2.0
// Image: a module as it is mapped, by its program headers. They are in memory. So reading them
// takes neither a lock nor a system call of the dynamic linker's, and a module that the dynamic
// linker has mapped and not finished yet has an image, too.
//
// The headers are believed only if they say that the module's dynamic section lies where the
// dynamic linker has it.

import AgentMachine
import SharedLayout

struct Image {
  private let headers: UnsafePointer<Elf64_Phdr>
  private let count: Int
  private let bias: UInt64

  init?(_ module: UnsafeMutablePointer<link_map>) {
    bias = UInt64(module.pointee.l_addr)
    let dynamic = UInt64(UInt(bitPattern: module.pointee.l_ld))
    if allocs_is_main_module(module) {
      var count: UInt64 = 0
      if let headers = allocs_executable_headers(&count), Self.lead(headers, Int(count), bias, to: dynamic) {
        self.headers = headers
        self.count = Int(count)
        return
      }
    }
    var start: UInt64 = 0
    var end: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    let pageSize = UInt64(ALLOCS_PAGE_SIZE)
    if !allocs_find_module(dynamic, &start, &end, &map) || map != module {
      // The dynamic linker has not finished the module.
      start = bias
      guard start != 0, start % pageSize == 0, System.isMapped(UInt(start)) else { return nil }
    }
    guard let image = UnsafeRawPointer(bitPattern: UInt(start))
    else { return nil }
    let header = image.load(as: Elf64_Ehdr.self)
    let magic: UInt32 = 0x464C_457F
    guard image.load(as: UInt32.self) == magic, Int(header.e_phentsize) == MemoryLayout<Elf64_Phdr>.size,
      header.e_phoff % 8 == 0, header.e_phoff < pageSize,
      header.e_phoff + UInt64(header.e_phnum) * UInt64(header.e_phentsize) <= pageSize
    else { return nil }
    headers = (image + Int(header.e_phoff)).assumingMemoryBound(to: Elf64_Phdr.self)
    count = Int(header.e_phnum)
    guard Self.lead(headers, count, bias, to: dynamic) else { return nil }
  }

  private static func lead(
    _ headers: UnsafePointer<Elf64_Phdr>, _ count: Int, _ bias: UInt64, to dynamic: UInt64
  ) -> Bool {
    let dynamicSegment: UInt32 = 2
    for index in 0..<count where headers[index].p_type == dynamicSegment {
      return bias &+ headers[index].p_vaddr == dynamic
    }
    return false
  }

  private static let loaded: UInt32 = 1
  private static let executable: UInt32 = 1
  private static let readable: UInt32 = 4

  /// The addresses from the first page of the module to its last.
  var range: (start: UInt64, end: UInt64) {
    let pageSize = UInt64(ALLOCS_PAGE_SIZE)
    var low = UInt64.max
    var high: UInt64 = 0
    for index in 0..<count where headers[index].p_type == Self.loaded {
      low = min(low, headers[index].p_vaddr & ~(pageSize - 1))
      high = max(high, headers[index].p_vaddr &+ headers[index].p_memsz)
    }
    guard low < high else { return (0, 0) }
    return (bias &+ low, (bias &+ high &+ pageSize - 1) & ~(pageSize - 1))
  }

  func contains(_ address: UInt64) -> Bool {
    let range = range
    return address >= range.start && address < range.end
  }

  /// The end of the code around `address`; 0 if there is none that can be read.
  func codeEnd(_ address: UInt64) -> UInt64 {
    let offset = address &- bias
    for index in 0..<count
    where headers[index].p_type == Self.loaded && headers[index].p_flags & Self.executable != 0
      && offset &- headers[index].p_vaddr < headers[index].p_filesz
    {
      guard headers[index].p_flags & Self.readable != 0 else { return 0 }
      return bias &+ headers[index].p_vaddr &+ headers[index].p_filesz
    }
    return 0
  }
}

/// Entries of the dynamic section that concern the module as a whole.
extension DynamicSymbols {
  /// Whether the dynamic linker is to change the module's code.
  static func hasRelocatedCode(_ module: UnsafeMutablePointer<link_map>) -> Bool {
    guard var entry = module.pointee.l_ld else { return false }
    while entry.pointee.d_tag != 0 {
      // DT_TEXTREL, and DF_TEXTREL of DT_FLAGS.
      if entry.pointee.d_tag == 22 || entry.pointee.d_tag == 30 && entry.pointee.d_un.d_val & 4 != 0 { return true }
      entry += 1
    }
    return false
  }
}
