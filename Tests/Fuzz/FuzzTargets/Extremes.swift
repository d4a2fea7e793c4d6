// SPDX-License-Identifier: Apache-2.0
// The numbers that generators put where a number is: mostly such as arithmetic is afraid of.

extension ScriptReader {
  /// A number of `bits` bits: small, around a power of two, near the end of the type, an address of the heap, or any.
  mutating func extreme(bits: Int = 64) -> UInt64 {
    let mask = UInt64.max >> UInt64(64 - bits)
    let choice = byte()
    let number: UInt64 =
      switch choice {
      case 0..<48: UInt64(choice)
      case 48..<112: UInt64(1) << UInt64(choice - 48)
      case 112..<176: (UInt64(1) << UInt64(choice - 112)) &- 1
      case 176..<208: 0 &- UInt64(choice - 176)
      case 208..<240: Stage.heap &+ UInt64(choice - 208) &* 0x80
      default: self.number(bytes: 8)
      }
    return number & mask
  }

  /// A small number below `limit`, above 0.
  mutating func choice(below limit: Int) -> Int { Int(byte()) % limit }
}
