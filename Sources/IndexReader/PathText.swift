// Paths are bytes: the kernel gives any but zero and "/" a place in a name. They are kept and opened as bytes, and shown as text.

/// The text that stands for a path: itself where it is UTF-8; else each byte that is part of no character becomes `\xNN`.
public func pathText(_ bytes: [UInt8]) -> String {
  if let text = String(validating: bytes, as: UTF8.self) { return text }
  var text = ""
  var rest = bytes[...]
  while !rest.isEmpty {
    let character = (1...4).lazy.filter { $0 <= rest.count }.compactMap { size in
      String(validating: rest.prefix(size), as: UTF8.self).map { (text: $0, size: size) }
    }.first
    if let character {
      text += character.text
      rest = rest.dropFirst(character.size)
    } else if let byte = rest.popFirst() {
      text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
  }
  return text
}
