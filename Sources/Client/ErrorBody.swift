// SPDX-License-Identifier: Apache-2.0
// The server's error bodies, {"error":"…"}, read without a JSON library: the server and this client are built together.

enum ErrorBody {
  /// The message of an error object; nil if `text` is no such object.
  static func message(_ text: String) -> String? {
    let start = "{\"error\":\""
    guard text.hasPrefix(start) else { return nil }
    var message = ""
    var characters = text.dropFirst(start.count).unicodeScalars.makeIterator()
    while let character = characters.next() {
      switch character {
      case "\"": return message
      case "\\":
        guard let escaped = unescape(&characters) else { return nil }
        message.unicodeScalars.append(escaped)
      default: message.unicodeScalars.append(character)
      }
    }
    return nil
  }

  /// Whether the error is that there is no such `thing`: `group`, `totals`.
  static func isOfNoSuch(_ thing: String, _ text: String) -> Bool {
    guard let end = text.lastIndex(of: "}") else { return false }
    return message(text) != nil && text[..<end].hasSuffix(",\"no_such\":\"\(thing)\"")
  }

  private static func unescape(_ characters: inout some IteratorProtocol<Unicode.Scalar>) -> Unicode.Scalar? {
    switch characters.next() {
    case "n": return "\n"
    case "t": return "\t"
    case "r": return "\r"
    case "b": return "\u{8}"
    case "f": return "\u{C}"
    case "u":
      var value: UInt32 = 0
      for _ in 0..<4 {
        guard let digit = characters.next().flatMap({ Character($0).hexDigitValue }) else { return nil }
        value = value << 4 | UInt32(truncatingIfNeeded: digit)
      }
      return Unicode.Scalar(value)
    case let other: return other
    }
  }
}
