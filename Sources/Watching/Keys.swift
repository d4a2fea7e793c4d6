// SPDX-License-Identifier: Apache-2.0
// Keys, from the bytes that a terminal sends. Bytes that mean no key are passed over.

import ByteText

/// A key.
package enum Key: Hashable, Sendable {
  case character(Character)
  case enter, escape, backspace, up, down, left, right, pageUp, pageDown, home, end

  /// Sequences behind ESC, of xterm and the terminals that follow it, in both cursor modes.
  private static let sequences: [String: Key] = [
    "[A": .up, "[B": .down, "[C": .right, "[D": .left, "OA": .up, "OB": .down, "OC": .right, "OD": .left,
    "[5~": .pageUp, "[6~": .pageDown, "[H": .home, "[F": .end, "OH": .home, "OF": .end, "[1~": .home, "[4~": .end,
    "[7~": .home, "[8~": .end,
  ]

  /// The keys in what was read at once.
  package static func keys(in bytes: [UInt8]) -> [Key] {
    var keys: [Key] = []
    var rest = bytes[...]
    while let byte = rest.first {
      switch byte {
      case 0x1B:
        rest.removeFirst()
        guard let second = rest.first, second == UInt8(ascii: "[") || second == UInt8(ascii: "O") else {
          keys.append(.escape)
          continue
        }
        // A sequence ends with its first byte from 0x40 to 0x7E behind the second.
        let body = rest.dropFirst().prefix { !(0x40...0x7E ~= $0) }
        // bounded: a key has no more bytes than were read
        let length = min(rest.count, 2 + body.count)
        if let key = sequences[String(decoding: rest.prefix(length), as: UTF8.self)] { keys.append(key) }
        rest = rest.dropFirst(length)
      case 0x0D, 0x0A:
        keys.append(.enter)
        rest.removeFirst()
      case 0x7F, 0x08:
        keys.append(.backspace)
        rest.removeFirst()
      case 0..<0x20: rest.removeFirst()
      case 0x20..<0x7F:
        keys.append(.character(Character(Unicode.Scalar(byte))))
        rest.removeFirst()
      default:
        let most = byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : byte >= 0xC0 ? 1 : 0
        // bounded: a character has four bytes, and no more than were read
        let length = 1 + rest.dropFirst().prefix(most).prefix { 0x80...0xBF ~= $0 }.count
        if let text = String(validating: Array(rest.prefix(length)), as: UTF8.self), let character = text.first,
          text.isInert
        {
          keys.append(.character(character))
        }
        rest = rest.dropFirst(length)
      }
    }
    return keys
  }
}
