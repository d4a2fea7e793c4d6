// SPDX-License-Identifier: Apache-2.0
// Bytes as a String, and back: arguments, paths and the environment are bytes in no encoding, while Swift's strings are
// Unicode.
//
// Bytes that are UTF-8 become the text that they are. Each other byte becomes a character of its own, out of 128 at
// U+10FE80 in a plane for private use that are set aside for it. Where these characters themselves occur in the bytes,
// each of their bytes becomes such a character, too. So no two sequences of bytes become the same text, and each text
// leads back to its bytes. Such text may be cut, joined and searched as any other. It is made where bytes come in
// (`String(reversibly:)`), becomes bytes where the system is called (`originalBytes`, `originalPath`), and is written
// as \xE9 for people and in JSON.

/// The characters that stand for bytes.
enum StandIn {
  /// U+10FE80 to U+10FEFF; in UTF-8 F4 8F BA 80 to F4 8F BB BF.
  static let first: UInt32 = 0x10FE80

  static func scalar(for byte: UInt8) -> Unicode.Scalar {
    // Never nil: all of them are scalars.
    Unicode.Scalar(first &+ UInt32(byte & 0x7F)) ?? "\u{FFFD}"
  }

  static func byte(of scalar: Unicode.Scalar) -> UInt8? {
    let number = scalar.value &- first
    return number < 128 ? UInt8(truncatingIfNeeded: number) | 0x80 : nil
  }

  /// The byte for which the four bytes of UTF-8 at `index` stand.
  static func byte(in bytes: UnsafeBufferPointer<UInt8>, at index: Int) -> UInt8? {
    guard index &+ 3 < bytes.count, bytes[index] == 0xF4, bytes[index &+ 1] == 0x8F, bytes[index &+ 2] & 0xFE == 0xBA,
      bytes[index &+ 3] & 0xC0 == 0x80
    else { return nil }
    return 0x80 | (bytes[index &+ 2] & 1) << 6 | bytes[index &+ 3] & 0x3F
  }
}

extension String {
  /// The text that stands for these bytes.
  public init(reversibly bytes: some Collection<UInt8>) {
    let found = bytes.withContiguousStorageIfAvailable { Self.text(of: $0) }
    self = found ?? Array(bytes).withUnsafeBufferPointer { Self.text(of: $0) }
  }

  /// The text that stands for the bytes of a string of C.
  public init(reversibly text: UnsafePointer<CChar>) {
    var count = 0
    while text[count] != 0 { count &+= 1 }
    self = text.withMemoryRebound(to: UInt8.self, capacity: count) {
      Self.text(of: UnsafeBufferPointer(start: $0, count: count))
    }
  }

  private static func text(of bytes: UnsafeBufferPointer<UInt8>) -> String {
    // Nearly all text is UTF-8 without a stand-in.
    if !bytes.contains(0xF4), let text = String(validating: bytes, as: UTF8.self) { return text }
    var scalars = String.UnicodeScalarView()
    var index = 0
    while index < bytes.count {
      let length = length(ofScalarIn: bytes, at: index)
      if length > 0, StandIn.byte(in: bytes, at: index) == nil {
        let scalar = bytes[index..<(index &+ length)]  // bounded: `length` counts bytes that are there
        scalars.append(contentsOf: String(decoding: scalar, as: UTF8.self).unicodeScalars)
        index &+= length
      } else {
        scalars.append(StandIn.scalar(for: bytes[index]))
        index &+= 1
      }
    }
    return String(scalars)
  }

  /// Bytes of the scalar that begins at `index`; 0 if none does (Unicode 16, table 3-7).
  private static func length(ofScalarIn bytes: UnsafeBufferPointer<UInt8>, at index: Int) -> Int {
    let first = bytes[index]
    var second: ClosedRange<UInt8> = 0x80...0xBF
    let length: Int
    switch first {
    case 0x00...0x7F: return 1
    case 0xC2...0xDF: length = 2
    case 0xE0: (length, second) = (3, 0xA0...0xBF)
    case 0xED: (length, second) = (3, 0x80...0x9F)
    case 0xE1...0xEF: length = 3
    case 0xF0: (length, second) = (4, 0x90...0xBF)
    case 0xF1...0xF3: length = 4
    case 0xF4: (length, second) = (4, 0x80...0x8F)
    default: return 0
    }
    guard index &+ length <= bytes.count, second.contains(bytes[index &+ 1]) else { return 0 }
    return bytes[..<(index &+ length)][(index &+ 2)...].allSatisfy { 0x80...0xBF ~= $0 } ? length : 0
  }

  /// The bytes for which the text stands.
  public var originalBytes: [UInt8] {
    var copy = self
    return copy.withUTF8 { text in
      guard text.contains(0xF4) else { return Array(text) }
      var bytes: [UInt8] = []
      bytes.reserveCapacity(text.count)
      var index = 0
      while index < text.count {
        if let byte = StandIn.byte(in: text, at: index) {
          bytes.append(byte)
          index &+= 4
        } else {
          bytes.append(text[index])
          index &+= 1
        }
      }
      return bytes
    }
  }

  /// The original bytes with a zero behind them, as the system takes names and paths.
  public var originalPath: [CChar] { originalBytes.map { CChar(bitPattern: $0) } + [0] }

  /// The text with each byte that is no UTF-8 as `\xE9`, for people and for JSON.
  public var withBytesEscaped: String {
    guard utf8.contains(0xF4) else { return self }
    var result = ""
    for scalar in unicodeScalars {
      if let byte = scalar.originalByte {
        result += byte.escaped
      } else {
        result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}

extension Unicode.Scalar {
  /// The byte for which the character stands; nil if it stands for itself.
  public var originalByte: UInt8? { StandIn.byte(of: self) }
}

extension UInt8 {
  /// Two digits, in lower case: `e9`.
  public var hexadecimal: String { (self < 16 ? "0" : "") + String(self, radix: 16) }

  /// `\xE9`
  public var escaped: String { "\\x\(hexadecimal.uppercased())" }
}

extension CommandLine {
  /// The arguments of this program behind its name; `CommandLine.arguments` has U+FFFD for what is no UTF-8.
  public static var argumentsReversibly: [String] {
    // bounded: the kernel's count of arguments
    (1..<max(1, Int(argc))).compactMap { unsafeArgv[$0].map { String(reversibly: UnsafePointer($0)) } }
  }
}
