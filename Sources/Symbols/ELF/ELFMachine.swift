// SPDX-License-Identifier: Apache-2.0
// For which machine an ELF file is: its first bytes, which are alike in all files (System V gABI, chapter 4).

/// Class, byte order and architecture of an ELF file.
public struct ELFMachine: Hashable, Sendable {
  /// e_machine, such as 62 for x86-64.
  public let number: UInt16
  /// Whether its addresses have 64 bits.
  public let isWide: Bool
  public let isLittleEndian: Bool

  /// The machine that this program runs on.
  public static let native = ELFMachine(number: nativeNumber, isWide: true, isLittleEndian: true)

  #if arch(x86_64)
    private static let nativeNumber: UInt16 = 62  // EM_X86_64
  #elseif arch(arm64)
    private static let nativeNumber: UInt16 = 183  // EM_AARCH64
  #endif

  private init(number: UInt16, isWide: Bool, isLittleEndian: Bool) {
    self.number = number
    self.isWide = isWide
    self.isLittleEndian = isLittleEndian
  }

  /// Of a file that starts with `head`; nil if that is no ELF file, or it is cut short.
  public init?(_ head: [UInt8]) {
    guard head.starts(with: [0x7F] + Array("ELF".utf8)), head.count >= 20 else { return nil }
    let isLittleEndian = head[5] == 1
    let number = UInt16(truncatingIfNeeded: head.number(at: 18, size: 2) ?? 0)
    self.init(
      number: isLittleEndian ? number : number.byteSwapped,
      isWide: head[4] == 2, isLittleEndian: isLittleEndian)
  }

  /// The architecture in a word or two, for people: of machines that Linux runs on by name, else by number.
  public var name: String {
    let name: String? =
      switch number {
      case 2, 18, 43: "sparc"
      case 3: "i386"
      case 4: "m68k"
      case 8: "mips"
      case 15: "parisc"
      case 20, 21: "powerpc"
      case 22: "s390"
      case 40: "arm"
      case 42: "sh"
      case 50: "ia64"
      case 62: "x86-64"
      case 183: "aarch64"
      case 243: "riscv"
      case 258: "loongarch"
      default: nil
      }
    let usual = name == "i386" || name == "arm" || name == "m68k" || name == "sh" ? !isWide : isWide
    let isBig = ["sparc", "m68k", "parisc", "powerpc", "s390", "mips"].contains(name ?? "")
    var words = name ?? "machine \(number)"
    if name == nil || !usual || ["mips", "powerpc", "riscv", "sparc", "loongarch"].contains(words) {
      words += isWide ? ", 64-bit" : ", 32-bit"
    }
    if isLittleEndian == isBig { words += isLittleEndian ? ", little-endian" : ", big-endian" }
    return words
  }
}
