// SPDX-License-Identifier: Apache-2.0
// The functions that an executable or shared object on disk defines: for checks before a program starts.

import ByteText
import CLibdw

/// An ELF executable or shared object. Not thread-safe.
public struct ModuleFile {
  private let file: ObjectFile

  /// Nil if the file can't be read or is none.
  public init?(path: String) {
    guard let file = ObjectFile(path: path) else { return nil }
    self.file = file
  }

  /// The dynamic linker that it asks for; nil if it asks for none.
  public var interpreter: String? {
    guard let section = file.section(named: ".interp"), let holder = elf_getscn(file.elf, section.index),
      let data = elf_getdata(holder, nil), let bytes = data.pointee.d_buf
    else { return nil }
    let text = UnsafeRawBufferPointer(start: bytes, count: data.pointee.d_size).prefix { $0 != 0 }
    return text.isEmpty ? nil : String(reversibly: text)
  }

  /// The functions that the file defines under one name.
  public struct Definition {
    /// Where functions of that name begin, by the file's addresses.
    public var addresses: Set<UInt64> = []
    /// Whether one of the functions is an IFUNC: which function callers get is decided when the program runs.
    public var isIndirect = false
  }

  /// The functions that the file defines under these names. Names that are not there, or are no functions', are left
  /// out.
  ///
  /// - `exported`: only functions that other modules can call; else also functions that the file keeps to itself, as
  ///   far as its symbol table is there.
  public func functions(named names: Set<String>, exported: Bool) -> [String: Definition] {
    var found: [String: Definition] = [:]
    for section in file.sections
    where section.type == UInt32(SHT_DYNSYM) || (section.type == UInt32(SHT_SYMTAB) && !exported) {
      guard let holder = elf_getscn(file.elf, section.index), let data = elf_getdata(holder, nil) else { continue }
      let entrySize = gelf_fsize(file.elf, ELF_T_SYM, 1, UInt32(EV_CURRENT))
      guard entrySize > 0 else { continue }
      var symbol = GElf_Sym()
      for index in 0..<min(data.pointee.d_size / entrySize, Int(Int32.max)) {
        guard gelf_getsym(data, Int32(index), &symbol) != nil else { break }
        let type = Int32(symbol.st_info & 0xF)
        guard symbol.st_name != 0, symbol.st_shndx != UInt16(SHN_UNDEF), symbol.st_value != 0,
          type == STT_FUNC || type == STT_GNU_IFUNC,
          let name = elf_strptr(file.elf, section.link, Int(symbol.st_name))
        else { continue }
        let text = String(cString: name)
        guard names.contains(text) else { continue }
        if type == STT_FUNC {
          found[text, default: Definition()].addresses.insert(symbol.st_value)
        } else {
          found[text, default: Definition()].isIndirect = true
        }
      }
    }
    return found
  }
}
