// SPDX-License-Identifier: Apache-2.0
// The functions that an executable or shared object on disk defines: for checks before a program starts.

import ByteText
import CLibdw

/// An ELF executable or shared object. Not thread-safe.
public struct ModuleFile {
  private let file: ObjectFile

  /// Nil if the file can't be read or is none.
  public init?(path: ForeignText) {
    guard let file = ObjectFile(path: path) else { return nil }
    self.file = file
  }

  /// The dynamic linker that it asks for; nil if it asks for none.
  public var interpreter: ForeignText? {
    guard let section = file.section(named: ".interp"), section.type != SHT_NOBITS, section.compression == nil else {
      return nil
    }
    let text = file.bytes(at: section.offset, count: min(4096, Int(clamping: section.size))).prefix { $0 != 0 }
    return text.isEmpty ? nil : ForeignText(reversibly: text)
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
    for tableType in exported ? [SHT_DYNSYM] : [SHT_DYNSYM, SHT_SYMTAB] {
      guard let section = file.sections.first(where: { $0.type == UInt32(truncatingIfNeeded: tableType) }),
        let texts = file.sections.first(where: { $0.index == section.link }),
        max(texts.size, texts.unpackedSize) <= ObjectFile.sectionLimit
      else { continue }
      ELFSymbol.forEach(in: section, of: file) { symbol in
        let type = Int32(truncatingIfNeeded: symbol.type)
        guard symbol.name != 0, symbol.section != UInt16(SHN_UNDEF), symbol.value != 0,
          type == STT_FUNC || type == STT_GNU_IFUNC,
          let name = elf_strptr(file.elf, section.link, Int(truncatingIfNeeded: symbol.name))
        else { return true }
        let text = String(bounded: name)
        guard names.contains(text) else { return true }
        if type == STT_FUNC {
          found[text, default: Definition()].addresses.insert(symbol.value)
        } else {
          found[text, default: Definition()].isIndirect = true
        }
        return true
      }
    }
    return found
  }
}
