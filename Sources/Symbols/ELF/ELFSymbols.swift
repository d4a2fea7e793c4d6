// SPDX-License-Identifier: Apache-2.0
// The entries of an ELF symbol table (System V gABI, chapter 4: Elf64_Sym), read from the file piece by piece.
//
// A table may say that it is larger than all memory, in a file of holes: so it is not taken as a whole, as libelf would.

import Bounds
import CLibdw

/// An entry of a symbol table.
struct ELFSymbol {
  /// Offset of the name in the string table; 0 for none.
  var name: UInt32
  var type: UInt8
  var binding: UInt8
  /// The section that it is defined in, or SHN_UNDEF and its like.
  var section: UInt16
  var value: UInt64
  var size: UInt64

  private static let entrySize = 24
  /// Entries of a table that are read: the largest programs have some two million.
  static let mostEntries = 4 << 20

  /// Calls `body` with each entry of a table, in order, until it returns false. Returns whether that was all of them.
  @discardableResult
  static func forEach(
    in table: ObjectFile.Section, of file: ObjectFile, _ body: (ELFSymbol) -> Bool
  ) -> Bool {
    guard table.type != SHT_NOBITS, table.compression == nil else { return true }
    let count = Int(clamping: table.size / UInt64(truncatingIfNeeded: entrySize))
    let piece = 1 << 15  // entries
    var first = 0
    var meter = BudgetMeter(interval: 1)
    while first < min(count, mostEntries) {
      guard meter.goesOn(),
        let place = (Foreign(table.offset) + UInt64(clamping: first &* entrySize)).value
      else { return false }
      let bytes = file.bytes(at: place, count: min(piece, count &- first) &* entrySize)
      guard !bytes.isEmpty else { return true }
      let isWanted = bytes.withUnsafeBytes { bytes in
        var start = 0
        while start &+ entrySize <= bytes.count {
          func number<Number: FixedWidthInteger>(_ offset: Int, _: Number.Type) -> Number {
            Number(littleEndian: bytes.loadUnaligned(fromByteOffset: start &+ offset, as: Number.self))
          }
          let info = number(4, UInt8.self)
          let symbol = ELFSymbol(
            name: number(0, UInt32.self), type: info & 0xF, binding: info >> 4, section: number(6, UInt16.self),
            value: number(8, UInt64.self), size: number(16, UInt64.self))
          if !body(symbol) { return false }
          start &+= entrySize
        }
        return true
      }
      if !isWanted { return false }
      first &+= piece
    }
    return count <= mostEntries
  }
}
