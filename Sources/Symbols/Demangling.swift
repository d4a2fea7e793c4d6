// SPDX-License-Identifier: Apache-2.0
// Mangled names of C++, Rust, Swift and D to what people write.

import ByteText
import CDemangle
import Glibc

/// Longest name, in bytes, that is demangled, and longest result: above these the mangled name stands.
private let longestMangledName = 8_192
private let longestName = 16_384

/// The name as its language writes it, or `name` itself if it is of no known mangling scheme. Thread-safe.
public func demangled(_ name: ForeignText) -> ForeignText {
  ForeignText(name.unescaped.withCString { demangled(cString: $0) })
}

func demangled(cString name: UnsafePointer<CChar>) -> String {
  let length = strnlen(name, longestMangledName &+ 1)
  guard length > 2, length <= longestMangledName else { return String(bounded: name) }
  switch (UInt8(bitPattern: name[0]), UInt8(bitPattern: name[1])) {
  case (UInt8(ascii: "_"), UInt8(ascii: "Z")), (UInt8(ascii: "_"), UInt8(ascii: "R")):
    return cxxOrRust(name) ?? String(bounded: name)
  case (UInt8(ascii: "_"), UInt8(ascii: "D")):
    return DDemangling.demangled(
      UnsafeBufferPointer(start: name, count: length).map { UInt8(bitPattern: $0) }) ?? String(bounded: name)
  case (UInt8(ascii: "$"), _), (UInt8(ascii: "_"), UInt8(ascii: "$")):
    return swift(name, length) ?? String(bounded: name)
  default:
    return String(bounded: name)
  }
}

private func cxxOrRust(_ name: UnsafePointer<CChar>) -> String? {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: longestName) { buffer in
    guard let start = buffer.baseAddress else { return nil }
    let size = cdemangle_cxx_or_rust(name, start, buffer.count)
    guard size > 0 else { return nil }
    return String(decoding: UnsafeRawBufferPointer(buffer)[..<size], as: UTF8.self)
  }
}

private func swift(_ name: UnsafePointer<CChar>, _ length: Int) -> String? {
  guard SwiftUnfolding.isBounded(UnsafeBufferPointer(start: name, count: length)),
    let result = cdemangle_swift(name, length)
  else { return nil }
  defer { free(result) }
  return strnlen(result, longestName &+ 1) > longestName ? nil : String(cString: result)
}

/// How far a Swift name unfolds. The demangler can't be told to stop, and 135 bytes stand for 60 MB: each reference to
/// an earlier part (`A` and letters, each with a count before it) may double what came before, and more with a count.
///
/// So a name is demangled only if the product of all its references' factors stays below 2^20; of the 184,000 Swift
/// names of allocsd itself that leaves out 50. Identifiers, which are text behind their length, are passed over.
/// The reading is of the mangling as the compiler writes it (docs/ABI/Mangling.rst of Swift).
private enum SwiftUnfolding {
  private static let mostFactors = 20.0
  /// Of references to the standard library's types, which unfold to a few words each.
  private static let mostRepeated = 10_000

  static func isBounded(_ name: UnsafeBufferPointer<CChar>) -> Bool {
    var reading = Reading(name)
    var factors = 0.0
    var repeated = 0
    while let byte = reading.next() {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): reading.passIdentifier()
      case UInt8(ascii: "A"):
        while let count = reading.reference() { factors += log2(Double(1 &+ count)) }
      case UInt8(ascii: "S"): repeated = repeated &+ reading.number()
      default: break
      }
      guard factors <= mostFactors, repeated <= mostRepeated else { return false }
    }
    return true
  }

  /// A place in a name. No step leaves the name, whatever it holds.
  private struct Reading {
    private let name: UnsafeBufferPointer<CChar>
    private var place = 0
    /// Whether a group of references goes on: it ends behind a capital letter.
    private var isInGroup = false

    init(_ name: UnsafeBufferPointer<CChar>) { self.name = name }

    private func byte(_ place: Int) -> UInt8? {
      place >= 0 && place < name.count ? UInt8(bitPattern: name[place]) : nil
    }

    private static func isDigit(_ byte: UInt8?) -> Bool { byte.map { $0 &- 0x30 < 10 } ?? false }
    private static func isCapital(_ byte: UInt8?) -> Bool { byte.map { $0 &- 0x41 < 26 } ?? false }
    private static func isLetter(_ byte: UInt8?) -> Bool { byte.map { ($0 | 0x20) &- 0x61 < 26 } ?? false }

    mutating func next() -> UInt8? {
      guard let byte = byte(place) else { return nil }
      place = place &+ 1
      isInGroup = byte == UInt8(ascii: "A")
      return byte
    }

    /// The number here, 0 if there is none; a number beyond the name's length counts as that and more.
    mutating func number() -> Int {
      var number = 0
      while let digit = byte(place), Self.isDigit(digit) {
        number = min(number &* 10 &+ Int(digit & 15), 1 << 20)
        place = place &+ 1
      }
      return number
    }

    /// How often the next reference of the group is repeated; nil behind the group's last.
    mutating func reference() -> Int? {
      guard isInGroup else { return nil }
      let count = max(number(), 1)
      guard let letter = byte(place), Self.isLetter(letter) else {
        // `A_`, `A0_` and so on: one of the parts that no letter stands for. The number is its index.
        isInGroup = false
        return byte(place) == UInt8(ascii: "_") ? 1 : nil
      }
      place = place &+ 1
      isInGroup = !Self.isCapital(letter)
      return count
    }

    /// Passes over the identifier whose first digit was read. A number before `_` is an index, and the digit of a
    /// specialization (`Tf4`) is no length: what is behind them is read on.
    mutating func passIdentifier() {
      place = place &- 1
      if byte(place &- 2) == UInt8(ascii: "T"), Self.isLetter(byte(place &- 1)) {
        place = place &+ 1
        return
      }
      var hasWords = false
      if byte(place) == UInt8(ascii: "0") {
        place = place &+ 1
        if byte(place) == UInt8(ascii: "0") { place = place &+ 1 } else { hasWords = true }
      }
      repeat {
        while hasWords, let letter = byte(place), Self.isLetter(letter) {
          hasWords = !Self.isCapital(letter)
          place = place &+ 1
        }
        guard Self.isDigit(byte(place)) else { return }
        if byte(place) == UInt8(ascii: "0") {
          place = place &+ 1
          return
        }
        let length = number()
        guard byte(place) != UInt8(ascii: "_") else { return }
        place = place &+ length
      } while hasWords
    }
  }
}
